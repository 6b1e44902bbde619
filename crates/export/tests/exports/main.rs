//! Every form, by what it has to say and by programs that read it.

mod flows;
mod forms;
mod readers;
