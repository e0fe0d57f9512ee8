//! What a chat request's prompt is made of: the conversation by the model's template, the tools that may be called, and
//! how answers to it are read.

use std::sync::Arc;

use crate::api::chat::{ChatRequest, ThinkingBudget};
use crate::api::error::Invalid;
use crate::api::tools::{ToolChoice, Tools};
use crate::http::constrain::Calls;
use crate::http::error::Problem;
use crate::http::prepare::{Draft, Layout, Loaded, Prepared, check_endings, unspeakable};
use crate::text::tools::{Required, Tool, ToolFormat};

/// What the model's way with tools makes of a request.
pub(super) enum Calling {
    /// Calls are read as such, or none may come.
    Known,
    /// Tools were offered to a model whose way of calling them is not known.
    Content,
}

/// Makes of a request what the engine takes.
pub(super) fn prepare(request: ChatRequest, loaded: &Loaded<'_>) -> Result<(Prepared, Calling), Problem> {
    let ChatRequest { messages, tools: offered, template_arguments, thinking_budget, mut options } = request;
    loaded.check(&options)?;
    let offered = offered.as_ref();
    let must_call = offered.is_some_and(|tools| tools.choice != ToolChoice::Auto);
    check_endings(&options, must_call.then_some("tool_choice"))?;
    let text = &loaded.served.text;
    let list = offered.map(|tools| tools.list.as_slice());
    let prompt = text
        .prompt(&messages, list, &template_arguments, loaded.capacity.context_tokens)
        .map_err(|error| unspeakable("messages", error))?;

    let thinks = loaded.served.constrainer.knows_thinking(prompt.opening);
    let (budget, idle) = if thinks { (thinking_budget, None) } else { (None, thinking_budget) };
    if let Some(ThinkingBudget { field, .. }) = idle {
        without_effect(field, loaded.settings.strict)?;
        options.ignored.push(field.to_owned());
    }
    let format = text.format().tools;
    let tools = tools(offered.filter(|_| format.is_some()));
    let calls = calls(format, offered, &tools)?;
    let calling = if offered.is_some() && format.is_none() { Calling::Content } else { Calling::Known };
    let prepared = loaded.prepared(Draft {
        prompts: vec![prompt.tokens],
        field: "messages",
        tokens_default: None,
        options,
        calls,
        budget,
        layout: Layout {
            opening: Some(prompt.opening),
            tools: Arc::clone(&tools),
            single_call: offered.is_some_and(|tools| !tools.parallel),
            tells_tokens: false,
        },
    })?;
    Ok((prepared, calling))
}

/// The tools in the words of those who read calls.
fn tools(offered: Option<&Tools>) -> Arc<[Tool]> {
    let functions = offered.into_iter().flat_map(Tools::functions);
    functions.map(|(name, parameters)| Tool { name: name.to_owned(), parameters }).collect()
}

/// Which calls there may or must be.
fn calls<'a>(
    format: Option<ToolFormat>,
    offered: Option<&'a Tools>,
    tools: &'a [Tool],
) -> Result<Option<Calls<'a>>, Invalid> {
    let Some(offered) = offered else { return Ok(None) };
    let must = offered.choice != ToolChoice::Auto;
    let Some(format) = format else {
        if must {
            let message = "`tool_choice` cannot require a call: this model's way of writing calls is not known";
            return Err(Invalid::unsupported("tool_choice", message));
        }
        return Ok(None);
    };
    let required = match &offered.choice {
        ToolChoice::Named(name) => Required::Named(name),
        ToolChoice::Auto | ToolChoice::Required if offered.parallel => Required::Some,
        ToolChoice::Auto | ToolChoice::Required => Required::One,
    };
    Ok(Some(Calls { format, tools, required, must }))
}

/// With `--strict`, a field that turns out to have no effect is a mistake.
fn without_effect(field: &str, strict: bool) -> Result<(), Invalid> {
    if strict {
        let message = format!("`{field}` has no effect on this model, and this server was started with --strict");
        return Err(Invalid::unsupported(field, message));
    }
    Ok(())
}
