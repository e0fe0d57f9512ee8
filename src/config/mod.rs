//! What the operator asked for: raw arguments in, validated settings out. It owns every default and every unit, and
//! collects every mistake before it reports; it refuses to know any other module of ours.

pub mod settings;
