//! What a grammar may cost, before, while and after it is compiled, in numbers with reasons. The wall clock ends the
//! client's wait; the other limits bound what a compilation does after that, and what a row may cost the worker.
//!
//! llguidance allocates by its units of fuel and by lexer states, so these bound memory as well: over the hostile corpus
//! of `tests/grammar_memory.rs` a compilation stays below 64 MB, and so does a row (E3).

use std::time::Duration;

use llguidance::api::ParserLimits;

/// Largest JSON schema, serialised without spaces.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Deepest nesting of schemas in each other, constants included.
pub const SCHEMA_DEPTH_MAX: u32 = 32;
/// Most schemas in a schema, those it refers to included. llguidance takes quadratic time in the properties of an object.
pub const SCHEMAS_MAX: u32 = 1_000;
/// Largest count that a schema may name (`maxItems`, `minLength` …): beyond it nobody counts, and regular expressions
/// have no larger ones.
pub const COUNT_MAX: u64 = 1_000_000;
/// Largest least common multiple of all `multipleOf` in a schema: the automaton has a state for each remainder, and
/// llguidance multiplies two of them in 32 bits without looking.
pub const DIVISOR_MAX: u64 = 1_000;
/// Largest regular expression, alone or as a `pattern`.
pub const REGEX_BYTES_MAX: usize = 4 << 10;
/// Largest Lark grammar.
pub const LARK_BYTES_MAX: usize = 64 << 10;
/// Most rules in a Lark grammar: llguidance recurses from rule to rule.
pub const LARK_RULES_MAX: u64 = 1_000;
/// Deepest nesting of brackets in a Lark grammar, for the same reason.
pub const LARK_DEPTH_MAX: u64 = 64;
/// Most bytes of all choices together.
pub const CHOICE_BYTES_MAX: usize = 64 << 10;

/// Most lexer fuel of one step. Real schemas use up to 3,000; 50,000 take 5 to 25 ms, for which all rows may wait.
pub(crate) const STEP_FUEL_MAX: u64 = 50_000;
/// Most Earley items of one step, several of which stand for one way on.
const STEP_ITEMS_MAX: usize = 20_000;
/// Most Earley items where one token ends; steps take time in their square. An optional property takes four.
pub(crate) const PLACE_ITEMS_MAX: usize = 2_000;
/// Most states of a row's lexer.
const LEXER_STATES_MAX: usize = 20_000;
/// Largest automaton of a row, as llguidance counts it. Those of real schemas have less than a tenth of it.
pub(crate) const ROW_BYTES_MAX: usize = 24 << 20;

/// What compiling one grammar may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// How long the client waits.
    pub wall: Duration,
    /// Most units of work on regular expressions, about 10 µs for a hundred.
    pub lexer_fuel: u64,
    /// Most symbols in the grammar's productions.
    pub symbols_max: usize,
}

impl Budget {
    /// What a request's grammar may cost (E3).
    pub const REQUEST: Self = Self { wall: Duration::from_millis(250), lexer_fuel: 500_000, symbols_max: 100_000 };

    /// The limits in llguidance's words.
    pub(crate) fn limits(self) -> ParserLimits {
        ParserLimits {
            max_items_in_row: PLACE_ITEMS_MAX,
            initial_lexer_fuel: self.lexer_fuel,
            step_lexer_fuel: STEP_FUEL_MAX,
            step_max_items: STEP_ITEMS_MAX,
            max_lexer_states: LEXER_STATES_MAX,
            max_grammar_size: self.symbols_max,
            precompute_large_lexemes: true,
            verbose_errors: false,
        }
    }
}
