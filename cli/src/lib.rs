//! gnomon, the command line client of the query API.
