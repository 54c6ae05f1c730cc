//! The seccomp profile in `config.json`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// The `linux.seccomp` object of the OCI runtime spec.
///
/// Deserialization checks the JSON types only, so that [`compile`](crate::compile()) can report all problems at once.
/// Strings without escapes borrow from the JSON text. `null` means that a field is absent. Unknown fields are
/// ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile<'a> {
    /// The action for calls that no rule matches, such as `SCMP_ACT_ERRNO`.
    #[serde(default, borrow, deserialize_with = "text")]
    pub default_action: Cow<'a, str>,
    /// The errno of `defaultAction`; `EPERM` if absent.
    #[serde(default)]
    pub default_errno_ret: Option<u32>,
    /// The ABIs allowed beside the native one, such as `SCMP_ARCH_X86`.
    #[serde(default, borrow, deserialize_with = "texts")]
    pub architectures: Vec<Cow<'a, str>>,
    /// Flags of seccomp(2), such as `SECCOMP_FILTER_FLAG_LOG`. Without this list,
    /// `SECCOMP_FILTER_FLAG_SPEC_ALLOW` is set; an empty list sets no flag.
    #[serde(default, borrow, deserialize_with = "optional_texts")]
    pub flags: Option<Vec<Cow<'a, str>>>,
    /// The socket to which the listener of `SCMP_ACT_NOTIFY` is sent.
    #[serde(default, borrow, deserialize_with = "text")]
    pub listener_path: Cow<'a, str>,
    /// Opaque text for the process that listens at `listenerPath`.
    #[serde(default, borrow, deserialize_with = "text")]
    pub listener_metadata: Cow<'a, str>,
    /// The rules.
    #[serde(default, borrow, deserialize_with = "or_default")]
    pub syscalls: Vec<Rule<'a>>,
}

impl Profile<'_> {
    /// Whether the profile has no action and no rule (`"seccomp": {}`). For runtimes that means no filter.
    pub fn is_empty(&self) -> bool {
        self.default_action.is_empty() && self.syscalls.is_empty()
    }
}

/// One entry of `syscalls`: an action for some calls, under conditions on arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule<'a> {
    /// The names of the calls. A name that no ABI has is skipped with a warning.
    #[serde(default, borrow, deserialize_with = "texts")]
    pub names: Vec<Cow<'a, str>>,
    /// The action, such as `SCMP_ACT_ALLOW`.
    #[serde(default, borrow, deserialize_with = "text")]
    pub action: Cow<'a, str>,
    /// The errno of `SCMP_ACT_ERRNO` or the message of `SCMP_ACT_TRACE`.
    #[serde(default)]
    pub errno_ret: Option<u32>,
    /// The conditions, all of which must be true. A rule without conditions always applies.
    #[serde(default, borrow, deserialize_with = "or_default")]
    pub args: Vec<Arg<'a>>,
}

/// A condition on one argument of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arg<'a> {
    /// The index of the argument, 0 to 5.
    #[serde(default, deserialize_with = "or_default")]
    pub index: u32,
    /// The value to compare with; for `SCMP_CMP_MASKED_EQ` the mask.
    #[serde(default, deserialize_with = "or_default")]
    pub value: u64,
    /// The value to compare with after `SCMP_CMP_MASKED_EQ` has applied its mask.
    #[serde(default, deserialize_with = "or_default")]
    pub value_two: u64,
    /// The operator, such as `SCMP_CMP_EQ`.
    #[serde(default, borrow, deserialize_with = "text")]
    pub op: Cow<'a, str>,
}

/// A string that borrows from the JSON text if possible. serde's `Cow` inside of a list never borrows.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text)))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed("")))
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, str>, D::Error> {
    Text::deserialize(deserializer).map(|text| text.0)
}

fn optional_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Cow<'de, str>>>, D::Error> {
    let texts = Option::<Vec<Text<'de>>>::deserialize(deserializer)?;
    Ok(texts.map(|texts| texts.into_iter().map(|text| text.0).collect()))
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Cow<'de, str>>, D::Error> {
    optional_texts(deserializer).map(Option::unwrap_or_default)
}

/// Decodes `null` as the default value, as Go's decoder does.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
