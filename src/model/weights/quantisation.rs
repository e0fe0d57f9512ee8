//! How a config says that weights are quantised: MLX's `quantization`, with overrides by layer. Anything that is not
//! affine is refused by name, because its bytes would be misread.

use serde_json::{Map, Value};

use crate::model::weights::error::Flaw;

/// The bits that MLX packs.
const BITS: [u64; 6] = [2, 3, 4, 5, 6, 8];
/// The groups that MLX has.
const GROUPS: [u64; 3] = [32, 64, 128];

/// Bits and group of one affine tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scheme {
    pub(super) bits: u8,
    pub(super) group: usize,
}

/// The scheme of every layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Schemes(Option<Map<String, Value>>);

impl Schemes {
    pub(super) fn read(config: &Value) -> Result<Self, Flaw> {
        let found = |key: &str| config.get(key).filter(|value| !value.is_null());
        let Some(value) = found("quantization").or_else(|| found("quantization_config")) else {
            return Ok(Self::default());
        };
        let Some(object) = value.as_object() else {
            return Err(Flaw::unexpected("key \"quantization\"", "an object", value));
        };
        if let Some(method) = object.get("quant_method") {
            let supported = "MLX's affine quantisation";
            return Err(Flaw::unsupported("key \"quantization_config.quant_method\"", method, supported));
        }
        scheme("quantization", object)?;
        Ok(Self(Some(object.clone())))
    }

    /// The scheme of a module, `model.layers.0.mlp.up_proj` for example.
    pub(super) fn of(&self, module: &str) -> Result<Scheme, Flaw> {
        let tensor = || format!("tensor {:?}", format!("{module}.weight"));
        let Some(all) = &self.0 else {
            return Err(Flaw::unexpected(tensor(), "floats, since config.json has no quantization", "packed integers"));
        };
        match all.get(module) {
            None | Some(Value::Bool(true)) => scheme("quantization", all),
            Some(Value::Object(own)) => scheme(&format!("quantization.{module}"), own),
            Some(Value::Bool(false)) => {
                Err(Flaw::unexpected(tensor(), "floats, since config.json excludes it", "packed integers"))
            }
            Some(other) => Err(Flaw::unexpected(format_args!("key \"quantization.{module}\""), "an object", other)),
        }
    }
}

fn scheme(place: &str, object: &Map<String, Value>) -> Result<Scheme, Flaw> {
    if let Some(mode) = object.get("mode").filter(|mode| **mode != "affine") {
        return Err(Flaw::unsupported(format_args!("key \"{place}.mode\""), mode, "\"affine\""));
    }
    let number = |key: &str, allowed: &[u64]| {
        let value = object.get(key).unwrap_or(&Value::Null);
        let what = format_args!("key \"{place}.{key}\"").to_string();
        value
            .as_u64()
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| Flaw::unexpected(what, format_args!("one of {allowed:?}"), value))
    };
    Ok(Scheme { bits: number("bits", &BITS)? as u8, group: number("group_size", &GROUPS)? as usize })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_layer_may_have_a_scheme_of_its_own() {
        let config = json!({ "quantization": { "bits": 4, "group_size": 64,
            "model.gate": { "bits": 8, "group_size": 32 }, "model.norm": false } });
        let schemes = Schemes::read(&config).expect("sound");
        assert_eq!(schemes.of("model.other"), Ok(Scheme { bits: 4, group: 64 }));
        assert_eq!(schemes.of("model.gate"), Ok(Scheme { bits: 8, group: 32 }));
        assert!(schemes.of("model.norm").is_err());
        assert!(Schemes::default().of("model.other").is_err());
    }

    #[test]
    fn what_is_not_affine_is_refused_by_name() {
        for (quantization, expected) in [
            (json!({ "mode": "mxfp4", "bits": 4, "group_size": 32 }), "key \"quantization.mode\": \"mxfp4\""),
            (json!({ "quant_method": "gptq" }), "\"gptq\" is not supported"),
            (
                json!({ "bits": 7, "group_size": 64 }),
                "key \"quantization.bits\": expected one of [2, 3, 4, 5, 6, 8], found 7",
            ),
            (json!({ "bits": 4 }), "key \"quantization.group_size\": expected one of [32, 64, 128], found null"),
        ] {
            let refusal = Schemes::read(&json!({ "quantization": quantization })).expect_err("not affine").to_string();
            assert!(refusal.contains(expected), "{refusal}");
        }
    }
}
