//! How the database is opened: what it may take of memory and disk, and how each family is kept.

use std::io;
use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, LogLevel, Options};

use super::keys::{self, Family};
use super::rocks::{Rocks, RocksError};

/// Bytes that the one block cache of the database may take, filters and indexes included.
const CACHE_BYTES: usize = 128 << 20;
const WRITE_BUFFER_BYTES: usize = 32 << 20;
const LEDGER_BUFFER_BYTES: usize = 64 << 20;
const WRITE_BUFFER_BYTES_SMALL: usize = 4 << 20;
/// The file that names the database's list of files; without it RocksDB begins a new database.
pub(super) const CURRENT: &str = "CURRENT";

/// Whether a database was written to there.
pub(super) fn has_data(path: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let kind = Path::new(&name).extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        if kind == "sst" || kind == "log" && entry.metadata()?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn open_for_writing(
    path: &Path,
    create: bool,
    merge: bool,
    log_bytes: u64,
) -> Result<DB, RocksError> {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(true);
    options.set_max_total_wal_size(log_bytes);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    // Its own text log stays empty: the next line after one that met a full disk fails an assertion in builds that
    // have them on, Debian's among these, and takes the process along.
    options.set_log_level(LogLevel::Header);
    options.set_keep_log_file_num(2);
    options.set_bytes_per_sync(1 << 20);
    let cache = Cache::new_lru_cache(CACHE_BYTES);
    let families = Family::ALL.map(|family| {
        let mut options = family_options(family, &cache);
        // Writes do not wait for merges then either.
        options.set_disable_auto_compactions(!merge);
        ColumnFamilyDescriptor::new(family.name(), options)
    });
    // Unused, but RocksDB insists on it.
    let default = ColumnFamilyDescriptor::new("default", Options::default());
    // A database is opened with all families it has or not at all. No list: there is no database yet.
    let there = Rocks::families_of(path);
    let retired = there.into_iter().filter(|name| keys::RETIRED.contains(&name.as_str()));
    let retired = retired.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let families = families.into_iter().chain([default]).chain(retired);
    DB::open_cf_descriptors(&options, path, families).map_err(|error| {
        let mut error = RocksError::of(path, &error);
        if error.message.contains("lock") {
            error.message += " (is another gnomon-collector running on this directory?)";
        }
        error
    })
}

pub(super) fn open_for_reading(path: &Path) -> Result<DB, RocksError> {
    let mut options = Options::default();
    options.set_max_open_files(512);
    options.set_log_level(LogLevel::Header);
    let cache = Cache::new_lru_cache(CACHE_BYTES);
    // What an older collector wrote may not have all of them.
    let there = Rocks::families_of(path);
    let families = Family::ALL
        .into_iter()
        .filter(|family| there.is_empty() || there.iter().any(|name| name == family.name()))
        .map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache)));
    let db = DB::open_cf_descriptors_read_only(&options, path, families, false);
    db.map_err(|error| RocksError::of(path, &error))
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(5);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES_SMALL);
    match family {
        // Compressed already; a column is read whole or not at all.
        Family::Columns => {
            table.set_block_size(16 << 10);
            options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        }
        // Written and deleted soon after.
        Family::Recent => options.set_write_buffer_size(WRITE_BUFFER_BYTES),
        // Full long after the others: alone in its files it would say more than those have. (All families at once, RocksDB's
        // atomic flush, fails an assertion of Debian's build where the disk is full.)
        Family::Ledger => options.set_write_buffer_size(LEDGER_BUFFER_BYTES),
        // Most looks are for what is not there.
        Family::Loose => table.set_bloom_filter(10.0, false),
        _ => {}
    }
    options.set_block_based_table_factory(&table);
    match family {
        Family::Columns | Family::Recent => options.set_compression_type(DBCompressionType::None),
        _ => {
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_bottommost_compression_type(DBCompressionType::Zstd);
        }
    }
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}
