//! The one table of HTTP routes: what is served, what is taken, and what is documented. A pure table.

/// What is behind a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Search,
    Count,
    Top,
    Histogram,
    Facets,
    Hunt,
    Hunts,
    Flow,
    Pcap,
    Tail,
    Agents,
    Fields,
    Status,
    Clock,
    OpenApi,
    Healthz,
    Readyz,
    Metrics,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// JSON by the schema of this name.
    Json(&'static str),
    /// A capture file.
    Capture,
    /// One JSON object a line, or server-sent events, without end.
    Lines(&'static str),
    /// One, or with `refine` several as [`Answer::Lines`].
    JsonOrLines(&'static str),
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Time,
    Duration,
    Flag,
    Number,
    /// Several times, or separated by commas; an array in a body.
    List,
    OneOf(&'static [&'static str]),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) doc: &'static str,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) door: Door,
    /// POST with a JSON body means the same as GET.
    pub(super) post: bool,
    pub(super) parameters: &'static [Parameter],
    pub(super) answer: Answer,
    pub(super) doc: &'static str,
}

const fn parameter(name: &'static str, kind: Kind, doc: &'static str) -> Parameter {
    Parameter { name, kind, doc }
}

const EXPRESSION: Parameter =
    parameter("expression", Kind::Text, "Which flows, in the language of docs/search.md. Empty: all.");
const SINCE: Parameter = parameter(
    "since",
    Kind::Time,
    "Flows any part of which is at or after this: RFC 3339, unix seconds, or relative to now (-1h, 15m).",
);
const UNTIL: Parameter = parameter("until", Kind::Time, "Flows any part of which is before this.");
const BY_INGEST: Parameter = parameter(
    "by_ingest_time",
    Kind::Flag,
    "Compare the time of ingest, which finds pending and quarantined flows too.",
);

/// Every route.
pub(super) static ROUTES: &[Route] = &[
    Route {
        path: "/api/v1/search",
        door: Door::Search,
        post: true,
        parameters: &[
            EXPRESSION,
            SINCE,
            UNTIL,
            BY_INGEST,
            parameter("oldest_first", Kind::Flag, "The oldest flow first; else the newest."),
            parameter("limit", Kind::Number, "Flows of a page: 100 unless given, at most 10000."),
            parameter("cursor", Kind::Text, "next_cursor of the page before."),
        ],
        answer: Answer::Json("SearchResponse"),
        doc: "Flows that match, a page at a time.",
    },
    Route {
        path: "/api/v1/count",
        door: Door::Count,
        post: true,
        parameters: &[
            EXPRESSION,
            SINCE,
            UNTIL,
            BY_INGEST,
            parameter(
                "distinct",
                Kind::List,
                "Fields whose different values are counted, at most 4: exact up to 65536, within 0.8 % beyond.",
            ),
        ],
        answer: Answer::Json("CountResponse"),
        doc: "How many flows match, with their packets and bytes, and how many different values they have.",
    },
    Route {
        path: "/api/v1/top",
        door: Door::Top,
        post: true,
        parameters: &[
            parameter("fields", Kind::List, "One or more fields; rows are their combinations."),
            EXPRESSION,
            SINCE,
            UNTIL,
            BY_INGEST,
            parameter(
                "by",
                Kind::OneOf(&["flows", "packets", "bytes", "distinct"]),
                "What rows are ranked by: flows unless given; distinct is by the first field of distinct.",
            ),
            parameter(
                "distinct",
                Kind::List,
                "Fields whose different values are counted in each row, at most 4: exact up to 1024, within 1.6 % beyond.",
            ),
            parameter("limit", Kind::Number, "Rows: 10 unless given, at most 10000."),
        ],
        answer: Answer::Json("TopResponse"),
        doc: "The values of fields with the most flows, packets, bytes or different values of other fields.",
    },
    Route {
        path: "/api/v1/histogram",
        door: Door::Histogram,
        post: true,
        parameters: &[
            EXPRESSION,
            SINCE,
            UNTIL,
            BY_INGEST,
            parameter(
                "interval",
                Kind::Duration,
                "Length of a bucket (10s, 5m, 1h); chosen for about 60 unless given.",
            ),
            parameter("group", Kind::Text, "A field to split by."),
        ],
        answer: Answer::Json("HistogramResponse"),
        doc: "Flows, packets and bytes along time. Buckets without flows are left out.",
    },
    Route {
        path: "/api/v1/facets",
        door: Door::Facets,
        post: true,
        parameters: &[
            EXPRESSION,
            SINCE,
            UNTIL,
            BY_INGEST,
            parameter(
                "fields",
                Kind::List,
                "Fields; every one but times, ids, counters and those that stand for others unless given.",
            ),
            parameter("limit", Kind::Number, "Values of each field: 10 unless given, at most 1000."),
            parameter(
                "exact",
                Kind::Flag,
                "Read every flow, also where the most frequent values kept of each block would do.",
            ),
            parameter(
                "refine",
                Kind::Flag,
                "Answer while flows are being read, too: one JSON object a line, or server-sent events for those who accept \
                 text/event-stream. The last one has last set, or is an error.",
            ),
        ],
        answer: Answer::JsonOrLines("FacetsResponse"),
        doc: "The most frequent values of many fields at once.",
    },
    Route {
        path: "/api/v1/hunt",
        door: Door::Hunt,
        post: true,
        parameters: &[
            parameter("name", Kind::Text, "Which hunt; /api/v1/hunts lists them."),
            EXPRESSION,
            SINCE,
            UNTIL,
            BY_INGEST,
            parameter(
                "parameters",
                Kind::List,
                "Numbers the hunt goes by, as targets=50; the others have their defaults.",
            ),
            parameter("limit", Kind::Number, "Findings: 20 unless given, at most 1000."),
        ],
        answer: Answer::Json("HuntResponse"),
        doc: "Suspects of one kind, the worst first. docs/hunts.md says how each hunt decides.",
    },
    Route {
        path: "/api/v1/hunts",
        door: Door::Hunts,
        post: false,
        parameters: &[],
        answer: Answer::Json("HuntsResponse"),
        doc: "What can be hunted, and the numbers each hunt goes by.",
    },
    Route {
        path: "/api/v1/flows/{id}",
        door: Door::Flow,
        post: false,
        parameters: &[],
        answer: Answer::Json("Flow"),
        doc: "One flow by its id.",
    },
    Route {
        path: "/api/v1/pcap",
        door: Door::Pcap,
        post: true,
        parameters: &[
            EXPRESSION,
            SINCE,
            UNTIL,
            BY_INGEST,
            parameter(
                "ids",
                Kind::List,
                "Flows by id, at most 10000; expression and range are ignored then.",
            ),
            parameter(
                "format",
                Kind::OneOf(&["pcapng", "pcap"]),
                "pcapng unless given; pcap has nanosecond stamps.",
            ),
            parameter("packets_max", Kind::Number, "Stop after so many packets."),
        ],
        answer: Answer::Capture,
        doc: "The stored packets of the flows that match, in order of time. The headers Gnomon-Flows, \
              Gnomon-Time-Error-Ns and, when flows are missing, Gnomon-Partial say what was found; the last block of a \
              pcapng file says how the export went, and so do the trailers gnomon-packets, gnomon-packets-missing and \
              gnomon-partial. A transfer that breaks off is no whole file.",
    },
    Route {
        path: "/api/v1/tail",
        door: Door::Tail,
        post: true,
        parameters: &[EXPRESSION],
        answer: Answer::Lines("TailResponse"),
        doc: "New flows as they arrive, until the caller goes away: one JSON object a line, or server-sent events for \
              those who accept text/event-stream.",
    },
    Route {
        path: "/api/v1/agents",
        door: Door::Agents,
        post: false,
        parameters: &[],
        answer: Answer::Json("AgentsResponse"),
        doc: "Every agent with its last heartbeat.",
    },
    Route {
        path: "/api/v1/fields",
        door: Door::Fields,
        post: false,
        parameters: &[],
        answer: Answer::Json("FieldsResponse"),
        doc: "The fields of flows: the names in searches and in JSON.",
    },
    Route {
        path: "/api/v1/status",
        door: Door::Status,
        post: false,
        parameters: &[],
        answer: Answer::Json("StatusResponse"),
        doc: "What is stored, and what the collector's time is worth.",
    },
    Route {
        path: "/api/v1/clock",
        door: Door::Clock,
        post: false,
        parameters: &[],
        answer: Answer::Json("ClockResponse"),
        doc: "The state of time: the collector's clock, each agent's, the flows that wait for better evidence and why, and \
              the newest 256 events.",
    },
    Route {
        path: "/openapi.json",
        door: Door::OpenApi,
        post: false,
        parameters: &[],
        answer: Answer::Json("Object"),
        doc: "This document.",
    },
    Route {
        path: "/healthz",
        door: Door::Healthz,
        post: false,
        parameters: &[],
        answer: Answer::Text,
        doc: "200 while the collector answers.",
    },
    Route {
        path: "/readyz",
        door: Door::Readyz,
        post: false,
        parameters: &[],
        answer: Answer::Text,
        doc: "200 while entries of agents are taken in; 503 with the reason while not.",
    },
    Route {
        path: "/metrics",
        door: Door::Metrics,
        post: false,
        parameters: &[],
        answer: Answer::Text,
        doc: "Metrics in the Prometheus text format.",
    },
];
