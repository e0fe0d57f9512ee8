//! Prompts of a wanted number of tokens, no two alike, whatever the server's tokenizer and chat template: how many tokens a
//! word has is learned from what the server counts. Without uniqueness a prefix cache would do the work that is measured.

use anyhow::bail;
use uuid::Uuid;

use crate::client::wire::Message;

/// Words of everyday English, which most vocabularies have as one token each.
const WORDS: &str = "time year people way day man thing woman life child world school state family student group country \
                     problem hand part place case week company system program question work government number night \
                     point home water room mother area money story fact month lot right study book eye job word business \
                     issue side kind head house service friend father power hour game line end member law car city \
                     community name president team minute idea body information back parent face level office door \
                     health person art war history party result change morning reason research girl moment air teacher";
/// Words of the two conversations from which the size of a word is learned.
const FIT_WORDS: [usize; 2] = [16, 144];

/// How large prompts are, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// All of it, with what the template adds.
    pub(super) tokens: u32,
    /// Of these, at the beginning, alike in all prompts.
    pub(super) shared_tokens: u32,
}

/// Where prompts come from.
#[derive(Debug)]
pub(super) struct Prompts {
    /// Different in each run, so that no prompt was ever sent before.
    run: u64,
    words: usize,
    shared_words: usize,
}

impl Prompts {
    /// Learns from `count`, which tells the tokens of a conversation, how many words are needed.
    pub(super) fn fit(
        sizes: Sizes,
        mut count: impl FnMut(Vec<Message>) -> anyhow::Result<u32>,
    ) -> anyhow::Result<Self> {
        let run = Uuid::new_v4().as_u64_pair().0;
        let [few, many] = FIT_WORDS;
        let little = f64::from(count(message(&words(run, few)))?);
        let much = f64::from(count(message(&words(run.wrapping_add(1), many)))?);
        let word_tokens = (much - little) / (many - few) as f64;
        if word_tokens <= 0.0 {
            bail!("the server counts {little} tokens in {few} words and {much} in {many}");
        }
        let template_tokens = little - word_tokens * few as f64;
        let words = |tokens: u32| ((f64::from(tokens) - template_tokens) / word_tokens).round().max(0.0) as usize;
        let prompts = Self { run, words: words(sizes.tokens), shared_words: words(sizes.shared_tokens) };
        if prompts.words == 0 {
            let least = (template_tokens + word_tokens).ceil();
            bail!("--prompt-tokens {}: the chat template and one word have {least}", sizes.tokens);
        }
        if prompts.shared_words >= prompts.words {
            let Sizes { tokens, shared_tokens } = sizes;
            bail!("--shared-prefix {shared_tokens}: leaves nothing of a prompt of {tokens} tokens to be its own");
        }
        Ok(prompts)
    }

    /// The conversation with this number; equal numbers give equal ones.
    pub(super) fn conversation(&self, number: u64) -> Vec<Message> {
        let mut text = words(self.run, self.shared_words);
        let own = words(self.run.wrapping_add(1 + number), self.words - self.shared_words);
        if !text.is_empty() {
            text.push(' ');
        }
        message(&(text + &own))
    }
}

fn message(text: &str) -> Vec<Message> {
    vec![Message { role: "user".to_owned(), content: Some(text.to_owned()) }]
}

/// So many words, by chance that depends on the seed only.
fn words(seed: u64, count: usize) -> String {
    let all: Vec<&str> = WORDS.split_whitespace().collect();
    let mut chance = Chance::new(seed);
    let drawn: Vec<&str> = (0..count).map(|_| all[(chance.next() % all.len() as u64) as usize]).collect();
    drawn.join(" ")
}

/// The generator SplitMix64: any seed will do, also ones that lie side by side.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Above 0 and at most 1.
    pub(super) fn share(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server whose template takes 20 tokens and whose words have two each.
    fn count(messages: &[Message]) -> u32 {
        20 + 2 * text(messages).split(' ').count() as u32
    }

    fn text(messages: &[Message]) -> &str {
        messages[0].content.as_deref().expect("a text")
    }

    fn fit(tokens: u32, shared_tokens: u32) -> anyhow::Result<Prompts> {
        Prompts::fit(Sizes { tokens, shared_tokens }, |messages| Ok(count(&messages)))
    }

    #[test]
    fn prompts_have_the_wanted_number_of_tokens_and_begin_differently() {
        let prompts = fit(128, 0).expect("it fits");
        let conversations: Vec<_> = (0..100).map(|number| prompts.conversation(number)).collect();
        assert!(conversations.iter().all(|messages| count(messages) == 128));
        let beginnings = conversations.iter().map(|messages| text(messages).split(' ').take(6).collect::<Vec<_>>());
        assert_eq!(beginnings.collect::<std::collections::BTreeSet<_>>().len(), 100);
        assert_ne!(text(&fit(128, 0).expect("it fits").conversation(0)), text(&conversations[0]), "runs differ");
    }

    #[test]
    fn a_shared_prefix_is_alike_and_what_follows_is_not() {
        let prompts = fit(128, 100).expect("it fits");
        let all: Vec<_> = (0..50).map(|number| prompts.conversation(number)).collect();
        let words = |at: usize| text(&all[at]).split(' ').collect::<Vec<_>>();
        assert!(all.iter().all(|messages| count(messages) == 128));
        assert!((0..50).all(|at| words(at)[..40] == words(0)[..40]), "(100 - 20) / 2 words are shared");
        assert!((1..50).all(|at| words(at)[40..] != words(0)[40..]));
    }

    #[test]
    fn sizes_that_cannot_be_had_are_refused_by_name() {
        let why = |tokens, shared| format!("{:#}", fit(tokens, shared).expect_err("it cannot be had"));
        assert_eq!(why(20, 0), "--prompt-tokens 20: the chat template and one word have 22");
        assert!(why(128, 128).starts_with("--shared-prefix 128"));
        let deaf = Prompts::fit(Sizes { tokens: 9, shared_tokens: 0 }, |_| Ok(7)).expect_err("it counts nothing");
        assert!(format!("{deaf:#}").contains("counts 7 tokens in 16 words"));
    }
}
