//! How much output is kept while containerd is away: an annotation of the container sets it, otherwise an option of the
//! runtime, and the host sets the maximum.

use std::path::Path;

use super::error::Error;
use super::message::options::Options;
use crate::stdio::size;
use crate::{Spooling, WhenFull};
use windlass_base::spec::Outline;

/// The annotations of a container.
const MAX: &str = "run.windlass.spool-max";
const FULL: &str = "run.windlass.spool-full";

/// The variable in containerd's environment with the largest file of one stream on this host.
const CEILING: &str = "WINDLASS_SPOOL_CEILING";

/// The default size of the file of a stream, and the default maximum.
const USUAL: u64 = 16 << 20;
const MOST: u64 = 64 << 20;

/// The settings of a container's output.
pub(super) fn of(options: &Options, config: &Outline, bundle: &Path) -> Result<Spooling, Error> {
    let ceiling = std::env::var(CEILING).ok();
    settle(options, [config.annotation(MAX), config.annotation(FULL)], ceiling.as_deref(), bundle)
}

fn settle(
    options: &Options,
    annotations: [Option<&str>; 2],
    ceiling: Option<&str>,
    bundle: &Path,
) -> Result<Spooling, Error> {
    let option = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let [max, full] = annotations;
    let max = max.map(|max| (MAX, max)).or(option(&options.spool_max).map(|max| ("SpoolMax", max)));
    let full = full.map(|full| (FULL, full)).or(option(&options.spool_full).map(|full| ("SpoolFull", full)));
    let (max, full) = (parsed(max, size)?, parsed(full, when)?);
    let ceiling = parsed(ceiling.map(|ceiling| (CEILING, ceiling)), size)?;
    Ok(Spooling {
        max: max.unwrap_or(USUAL).min(ceiling.unwrap_or(MOST)),
        full: full.unwrap_or_default(),
        // A link that containerd makes. The bundle itself is in memory.
        directory: bundle.join("work"),
    })
}

/// Parses a setting, if it is given.
fn parsed<T>(setting: Option<(&str, &str)>, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Error> {
    let Some((name, text)) = setting else { return Ok(None) };
    let wrong = || Error::Invalid(format!("{name}: {text:?} is not understood"));
    parse(text).map(Some).ok_or_else(wrong)
}

fn when(text: &str) -> Option<WhenFull> {
    match text {
        "block" => Some(WhenFull::Block),
        "drop" => Some(WhenFull::DropOldest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(option: &str, annotation: Option<&str>, ceiling: Option<&str>) -> Result<u64, Error> {
        let options = Options { spool_max: option.into(), ..Options::default() };
        settle(&options, [annotation, None], ceiling, Path::new("/b")).map(|spooling| spooling.max)
    }

    #[test]
    fn a_container_says_how_much_and_the_host_how_much_at_most() {
        assert_eq!(settled("", None, None).ok(), Some(USUAL));
        assert_eq!(settled("1m", None, None).ok(), Some(1 << 20));
        assert_eq!(settled("1m", Some("2k"), None).ok(), Some(2048));
        assert_eq!(settled("1m", Some("0"), None).ok(), Some(0));
        assert_eq!(settled("", Some("1g"), None).ok(), Some(MOST));
        assert_eq!(settled("", Some("1g"), Some("2g")).ok(), Some(1 << 30));
        assert_eq!(settled("", None, Some("0")).ok(), Some(0));
        for (option, annotation, ceiling) in [("x", None, None), ("", Some("-1"), None), ("", None, Some("1q"))] {
            assert!(settled(option, annotation, ceiling).is_err());
        }
    }

    #[test]
    fn what_is_done_when_it_is_full_has_two_names() {
        let full = |option: &str, annotation| {
            let options = Options { spool_full: option.into(), ..Options::default() };
            settle(&options, [None, annotation], None, Path::new("/b"))
                .map(|spooling| (spooling.full, spooling.directory))
        };
        assert_eq!(full("", None).ok(), Some((WhenFull::Block, "/b/work".into())));
        assert_eq!(full("drop", None).ok().map(|(full, _)| full), Some(WhenFull::DropOldest));
        assert_eq!(full("drop", Some("block")).ok().map(|(full, _)| full), Some(WhenFull::Block));
        assert!(full("", Some("newest")).is_err_and(|error| error.to_string().contains(FULL)));
    }
}
