"""Loads the rows of `store_bench --csv` into ClickHouse (chDB) and DuckDB, in this process, one store at a time, and asks
them what `store_bench` asks gnomon.

    bench-peers.py load {clickhouse|duckdb} ROWS.csv DIR FIGURES    one store: a name, a unit and a number a line
    bench-peers.py table GNOMON [CLICKHOUSE] [DUCKDB]               the figures beside each other

Both stores get typed columns, dictionaries where a text has few values, rows in the order of time, as many threads as
gnomon uses, and the loading path that their manuals name for files. They have no index beside what they make themselves.
"""

import csv
import os
import resource
import statistics
import sys
import time

THREADS = min(os.cpu_count() or 1, 4)
RUNS = 5
# As the bench makes them: five days from here on.
BEGIN_S = 1_700_000_000
DAY_S = 86_400
END_S = BEGIN_S + 5 * DAY_S

TIMES = {"starttime", "stoptime", "ingesttime"}
ADDRESSES = {"ip_src", "ip_dst"}
FLAGS = {"time_conflict", "direction_guessed"}
# Texts of few different values.
FEW = {
    "node", "interface", "time_state", "ip_protocol", "mac_src", "mac_dst", "tcp_state", "end_reason", "protocols", "tags",
    "dns_query_type", "dns_status", "http_method", "http_user_agent", "tls_version", "tls_cipher", "tls_ja3", "tcpflags_src",
    "tcpflags_dst",
}
MANY = {"dns_host", "http_host", "http_uri", "tls_host"}
SMALL = {"ip_protocol_number", "ttl_src", "ttl_dst"}
PORTS = {"port_src", "port_dst", "ethertype", "vlan", "http_statuscode"}

FACETS = [
    "node", "ip_src", "ip_dst", "port_src", "port_dst", "ip_protocol", "vlan", "mac_src", "ttl_src", "tcp_state",
    "end_reason", "protocols", "tags", "dns_host", "dns_status", "tls_host", "tls_ja3", "http_host", "http_uri",
    "http_user_agent",
]


def name(n):
    """The host names of the bench."""
    words = ["api", "cdn", "mail", "login", "static", "img", "news", "shop", "data", "cloud", "edge", "video"]
    return f"{words[n % 12]}{n % 97}.{words[n // 12 % 12]}-{n // 144}.example"


def questions(store):
    """What is asked, by the name that the bench gives it: statements each."""
    at = (lambda s: f"toDateTime64({s}, 9, 'UTC')") if store == "clickhouse" else (lambda s: f"make_timestamp_ns({s}000000000)")
    ip = (lambda a: f"toIPv4('{a}')") if store == "clickhouse" else (lambda a: str(number(a)))
    newest = "ORDER BY starttime DESC LIMIT 50"
    last = lambda seconds: f"stoptime >= {at(END_S - seconds)}"
    low, high = ip("10.0.30.0"), ip("10.0.30.255")
    rows = lambda where: [f"SELECT * FROM flows WHERE {where} {newest}"]
    top = lambda fields, where="1 = 1": [
        f"SELECT {fields}, count(*) AS n, sum(packets), sum(bytes) FROM flows"
        f" WHERE {where} GROUP BY {fields} ORDER BY n DESC LIMIT 10"
    ]
    facets = lambda where: [
        f"SELECT {field}, count(*) AS n FROM flows WHERE {where} GROUP BY {field} ORDER BY n DESC LIMIT 10" for field in FACETS
    ]
    five_minutes = "toStartOfInterval(starttime, INTERVAL 5 MINUTE)" if store == "clickhouse" else "time_bucket(INTERVAL '5 minutes', starttime::TIMESTAMP)"
    either = lambda a: f"(ip_src = {ip(a)} OR ip_dst = {ip(a)})"
    return {
        "newest 50": [f"SELECT * FROM flows {newest}"],
        "one address, 5 days, newest 50": rows(f"{either('10.0.10.40')} AND {last(5 * DAY_S)}"),
        "ssh, packets >= 3, last day": rows(f"port_dst = 22 AND packets >= 3 AND {last(DAY_S)}"),
        "CIDR /24 and bytes > 1 M, 5 days": rows(f"ip_src BETWEEN {low} AND {high} AND bytes > 1000000 AND {last(5 * DAY_S)}"),
        "host equality": rows(f"tls_host = '{name(4242)}'"),
        "absent address": rows(either("203.0.113.9")),
        "host contains": rows("tls_host LIKE '%video96.video%'"),
        "tag equality": rows("tags = 'tor'"),
        "count by port, 5 days": top("port_dst"),
        "top sources, 5 days": top("ip_src"),
        "top hosts, last hour": top("tls_host", last(3600)),
        "source and port, last day": top("ip_src, port_dst", last(DAY_S)),
        "pairs by distinct ports, last day": [
            "SELECT ip_src, ip_dst, count(DISTINCT port_dst) AS n FROM flows"
            f" WHERE {last(DAY_S)} GROUP BY ip_src, ip_dst ORDER BY n DESC LIMIT 10"
        ],
        "facets, 20 fields, 1 hour": facets(last(3600)),
        "facets, 20 fields, 5 days, port filter": facets("port_dst = 443"),
        "facets, 20 fields, 5 days, exact": facets("1 = 1"),
        "facets, 20 fields, 5 days, from rollups": facets("1 = 1"),
        "histogram 5 min x sensor": [
            f"SELECT {five_minutes} AS t, node, count(*), sum(packets), sum(bytes) FROM flows GROUP BY t, node ORDER BY t, node"
        ],
    }


def number(address):
    value = 0
    for part in address.split("."):
        value = value * 256 + int(part)
    return value


def kind(column, store):
    """The type of a column."""
    clickhouse = store == "clickhouse"
    if column in TIMES:
        return "DateTime64(9, 'UTC')" if clickhouse else "TIMESTAMP_NS"
    if column in ADDRESSES:
        return "IPv4" if clickhouse else "UINTEGER"
    if column in FLAGS:
        return "Bool" if clickhouse else "BOOLEAN"
    if column in FEW:
        return "LowCardinality(String)" if clickhouse else "VARCHAR"
    if column in MANY:
        return "String" if clickhouse else "VARCHAR"
    if column in SMALL:
        return "UInt8" if clickhouse else "UTINYINT"
    if column in PORTS:
        return "UInt16" if clickhouse else "USMALLINT"
    return "UInt64" if clickhouse else "UBIGINT"


class ClickHouse:
    def __init__(self, directory):
        from chdb import session

        self.session = session.Session(os.path.join(directory, "clickhouse"))
        self.ask("CREATE DATABASE bench ENGINE = Atomic")
        self.ask("USE bench")
        self.version = str(self.session.query("SELECT version()", "TSV")).strip()

    def ask(self, statement):
        # The bytes of the answer are what a program would read.
        answer = self.session.query(f"{statement} SETTINGS max_threads = {THREADS}" if statement.startswith(("SELECT", "INSERT")) else statement, "TSV")
        return bytes(answer.bytes()) if answer is not None and statement.startswith("SELECT") else b""

    def load(self, path, columns):
        types = ", ".join(f"{column} {kind(column, 'clickhouse')}" for column in columns)
        self.ask(f"CREATE TABLE flows ({types}) ENGINE = MergeTree ORDER BY starttime")
        self.session.query("SET date_time_input_format = 'best_effort'")
        self.session.query(
            f"INSERT INTO flows SELECT * FROM file('{path}', 'CSVWithNames', '{types.replace(chr(39), chr(92) + chr(39))}')"
            f" SETTINGS max_threads = {THREADS}, max_insert_threads = {THREADS}, date_time_input_format = 'best_effort',"
            " input_format_csv_empty_as_default = 1"
        )

    def settle(self):
        # The merges that would happen in the background: as small as it gets, and no more work while it is asked.
        self.session.query("OPTIMIZE TABLE flows FINAL")

    def bytes(self):
        return int(self.ask("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'flows'"))

    def rows(self):
        return int(self.ask("SELECT count(*) FROM flows"))


class DuckDb:
    def __init__(self, directory):
        import duckdb

        self.path = os.path.join(directory, "flows.duckdb")
        self.connection = duckdb.connect(self.path)
        self.connection.execute(f"SET threads = {THREADS}")
        self.version = duckdb.__version__

    def ask(self, statement):
        return self.connection.execute(statement).fetchall()

    def load(self, path, columns):
        types = ", ".join(f"{column} {kind(column, 'duckdb')}" for column in columns)
        self.connection.execute(f"CREATE TABLE flows ({types})")
        # It has no type of addresses without an extension: four bytes of a number, as the other has them.
        parts = lambda column: " + ".join(
            f"split_part({column}, '.', {at + 1})::UINTEGER * {256 ** (3 - at)}" for at in range(4)
        )
        of = lambda column: f"({parts(column)})::UINTEGER" if column in ADDRESSES else column
        read = ", ".join(f"'{column}': '{'VARCHAR' if column in ADDRESSES else kind(column, 'duckdb')}'" for column in columns)
        self.connection.execute(
            f"INSERT INTO flows SELECT {', '.join(map(of, columns))} FROM read_csv('{path}', header = true, columns = {{{read}}})"
        )

    def settle(self):
        self.connection.execute("CHECKPOINT")

    def bytes(self):
        return os.path.getsize(self.path)

    def rows(self):
        return self.ask("SELECT count(*) FROM flows")[0][0]


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def load(store, path, directory, figures):
    with open(path, newline="") as file:
        columns = next(csv.reader(file))
    peer = ClickHouse(directory) if store == "clickhouse" else DuckDb(directory)
    before, begun = cpu(), time.monotonic()
    peer.load(path, columns)
    loaded, wall = cpu() - before, time.monotonic() - begun
    peer.settle()
    settled = cpu() - before
    rows = peer.rows()
    with open(figures, "w") as out:

        def figure(what, unit, value):
            print(f"{what}\t{unit}\t{value}", file=out)
            print(f"{store} {peer.version}: {what:42} {value:14.1f} {unit}", file=sys.stderr, flush=True)

        figure("rows", "rows", rows)
        figure("ingest", "records a CPU-second", rows / loaded)
        figure("ingest with merges", "records a CPU-second", rows / settled)
        figure("ingest wall", "records/s", rows / wall)
        figure("memory while taking in", "MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        figure("size", "bytes a record", peer.bytes() / rows)
        for what, statements in questions(store).items():
            times = []
            for _ in range(RUNS + 1):
                begun = time.monotonic()
                for statement in statements:
                    peer.ask(statement)
                times.append((time.monotonic() - begun) * 1e3)
            figure(what, "ms", statistics.median(times[1:]))


def table(paths):
    """One line a figure; a ratio above 1 means that gnomon is the better one."""
    stores = []
    for path in paths:
        with open(path) as file:
            stores.append({what: (unit, float(value)) for what, unit, value in csv.reader(file, delimiter="\t")})
    names = ["gnomon", *(os.path.basename(path).removesuffix(".tsv") for path in paths[1:])]
    print("| | " + " | ".join(names) + "".join(f" | {other} / gnomon" for other in names[1:]) + " |")
    print("|---" * (2 * len(names)) + "|")
    for what, (unit, ours) in stores[0].items():
        others = [store.get(what) for store in stores[1:]]
        if not any(others):
            continue
        more = unit.startswith("records")
        cells = [show(ours)] + [show(other[1]) if other else "" for other in others]
        for other in others:
            ratio = "" if not other or not ours or not other[1] else (ours / other[1] if more else other[1] / ours)
            cells.append(f"{ratio:.2f}" if ratio != "" else "")
        print(f"| {what}, {unit} | " + " | ".join(cells) + " |")


def show(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["load", store, path, directory, figures]:
            load(store, path, directory, figures)
        case ["table", *paths] if paths:
            table(paths)
        case _:
            sys.exit(__doc__)
