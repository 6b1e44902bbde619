//! Several hosts on one machine: namespaces, real traffic, real kills.
