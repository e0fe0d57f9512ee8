//! How a token is chosen, and what is told of the choice.

/// How a token is chosen. Every value is already validated; the neutral ones are those of [`Sampling::greedy`].
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; otherwise logits are divided by it. Range 0–2.
    pub temperature: f32,
    /// Smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less likely than this times the most likely; 0 keeps all.
    pub min_p: f32,
    /// Of what is left, the smallest set of the tokens nearest to the distribution's entropy whose probability reaches
    /// this; 1 keeps all.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is neutral.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each token seen in the output; 0 is neutral.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the output; 0 is neutral.
    pub frequency_penalty: f32,
    /// Added to the logits of these token ids; ids are below the logit width.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens of the answer before which none of `ends` may come.
    pub tokens_min: u32,
    /// Token ids that would end the answer; needed with `tokens_min` only.
    pub ends: Vec<u32>,
    /// Same seed, same tokens. Always set: the edge draws one when the client sent none.
    pub seed: u64,
    /// Log probabilities are told: of each token chosen, and of so many of the likeliest.
    pub logprobs: Option<u32>,
}

impl Sampling {
    /// Argmax with every processor neutral.
    #[must_use]
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            tokens_min: 0,
            ends: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

/// One token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Below the logit width.
    pub id: u32,
    /// There if asked for.
    pub logprobs: Option<Box<Logprobs>>,
}

impl From<u32> for Token {
    fn from(id: u32) -> Self {
        Self { id, logprobs: None }
    }
}

/// Natural logarithms of probabilities at one position, of the distribution before the temperature: after masks, bias and
/// penalties. What may not come at all has −∞.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token chosen.
    pub chosen: f32,
    /// Of the likeliest, the likeliest first; ids that are equally likely ascend.
    pub top: Vec<(u32, f32)>,
}
