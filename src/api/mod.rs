//! The OpenAI wire types: the only place where clients' JSON is read and written. It owns what a field is called, which
//! values are legal and what a body looks like; it refuses to know the engine, the model, HTTP and our settings (its
//! bounds are passed in). After a request's `parse` an illegal one cannot be expressed.

pub mod answer;
pub mod chat;
pub mod completion;
pub mod error;
mod fields;
pub mod form;
pub mod ignored;
pub mod json;
mod messages;
pub mod models;
pub mod options;
pub mod tokens;
pub mod tools;
mod unserved;
