//! Compiles the .proto files without protoc, and keeps their descriptor for gRPC reflection.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 5] = [
    "gnomon/v1/flow.proto",
    "gnomon/v1/ingest.proto",
    "gnomon/v1/query.proto",
    "gnomon/v1/admin.proto",
    "gnomon/v1/store.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=gnomon");
    let descriptors = protox::compile(FILES, ["."])?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .bytes(".gnomon.v1.Entry")
        .bytes(".gnomon.v1.SliceBlock")
        .bytes(".gnomon.v1.PcapChunk")
        .compile_fds(descriptors)?;
    Ok(())
}
