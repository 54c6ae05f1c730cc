//! The start of a program that takes over a shim's process, or only checks whether it could.
//!
//! Before everything is read and watched, nothing with an effect outside of the process is done. Until then this
//! program can give the process back to the previous one.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Instant;

use super::control::Controlled;
use super::stderr::{NAME, print_error};
use super::upgradable::{Mode, Upgradable};
use super::{conmon, containerd, neutral};
use crate::image::fault::Fault;
use crate::image::format::{self, Content, Context, Fields};
use crate::image::supervisor;
use crate::image_check::{CHECK, RESUME, confirmation};
use crate::upgrade::{field, words};
use crate::{Code, Refusal, Reply, Supervisor, WaitToken, call, moment};
use windlass_sys::handover::{self, Inherited};
use windlass_sys::{descriptors, fd, process};

/// Checks an image or serves on with it, if the command line says so.
pub(super) fn main(words: &[OsString]) -> Option<ExitCode> {
    let [_, verb, place, rest @ ..] = words else { return None };
    let (number, began) = place.to_str().map(|place| place.split_once(',').unwrap_or((place, "0")))?;
    let image = || number.parse().ok().and_then(descriptors::borrow_inherited);
    if verb == CHECK {
        let found = image().ok_or(Unreadable::from(Fault::NoImage)).and_then(check);
        // Exit without dropping the state, because it belongs to another process.
        process::exit_now(i32::from(found.inspect_err(|why| print_error(NAME, &why.to_string())).is_err()));
    }
    if verb != RESUME {
        return None;
    }
    let failed = rest.first().and_then(|word| word.to_str()?.strip_prefix('!').map(str::to_owned));
    let began = moment::at(began.parse().unwrap_or(0));
    match image().ok_or(Fault::NoImage).and_then(|image| resume(image, began, failed)) {
        Ok(status) => Some(ExitCode::from(status as u8)),
        Err(why) => {
            print_error(NAME, &format!("the shim cannot continue after the upgrade: {why}"));
            Some(ExitCode::FAILURE)
        }
    }
}

/// The beginning of the answer to a request whose program could not continue the shim, or only a part of it.
const NOT_CONTINUED: &str = "the program could not continue the shim";

/// Why this program cannot serve on with an image.
struct Unreadable {
    /// The format of the image, and the version of the program that wrote it. `None`: the header cannot be read.
    header: Option<(u32, String)>,
    fault: Fault,
}

impl From<Fault> for Unreadable {
    fn from(fault: Fault) -> Unreadable {
        Unreadable { header: None, fault }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((format, version)) = &self.header {
            let own = env!("CARGO_PKG_VERSION");
            write!(f, "version {own} cannot read an image of format {format}, written by version {version}: ")?;
        }
        self.fault.fmt(f)
    }
}

fn read(image: BorrowedFd<'_>) -> Result<Vec<u8>, Fault> {
    Ok(fd::read_part(image, 0, usize::MAX)?)
}

fn check(image: BorrowedFd<'_>) -> Result<(), Unreadable> {
    let bytes = read(image)?;
    let header = format::header(&bytes)?;
    let context = Context::without_descriptors();
    let mut fields = Fields::of(Content::of(header.body, &context), "the image");
    let found = match fields.get(field::MODE) {
        Mode::Neutral => try_out::<neutral::NeutralFront>(fields, &context),
        Mode::Conmon => try_out::<Controlled<conmon::ConmonFront>>(fields, &context),
        Mode::Containerd => try_out::<Controlled<containerd::ContainerdFront>>(fields, &context),
    };
    found.map_err(|fault| Unreadable { header: Some((header.format, header.version)), fault })?;
    // Without the confirmation, the shim does not execute this program.
    let _ = writeln!(std::io::stdout(), "{}", confirmation(&bytes));
    Ok(())
}

fn try_out<F: Upgradable>(fields: Fields<'_>, context: &Context) -> Result<(), Fault> {
    let state = State::<F>::read(fields)?;
    let found = context.finish();
    // Do not drop the state: that would have effects outside of this process.
    std::mem::forget(state);
    found
}

/// The state of a shim.
struct State<F> {
    core: Supervisor,
    front: F,
    token: WaitToken,
}

impl<F: Upgradable> State<F> {
    fn read(mut fields: Fields<'_>) -> windlass_sys::Result<State<F>> {
        let mut core = Supervisor::new()?;
        if let Some(content) = fields.take_one(field::CORE) {
            supervisor::restore(&mut core, content);
        }
        let name: Option<Vec<u8>> = fields.get(field::NAME);
        if let Some(Ok(name)) = name.map(|name| std::ffi::CString::new(name.trim_ascii_end())) {
            process::set_comm(&name);
        }
        let state = State { core, front: fields.get(field::FRONT), token: fields.get(field::TOKEN) };
        // These fields are read where they are needed.
        for number in [field::MODE, field::DESCRIPTORS, field::PREVIOUS_PROGRAM] {
            fields.take(number);
        }
        fields.end();
        Ok(state)
    }

    /// Watches everything again. After a failure the rest is watched all the same.
    fn watch_again(&mut self) -> windlass_sys::Result<()> {
        supervisor::watch(&mut self.core).and(self.front.watch_again(&mut self.core))
    }
}

fn resume(image: BorrowedFd<'static>, began: Instant, failed: Option<String>) -> Result<i32, Fault> {
    let bytes = read(image)?;
    let header = format::header(&bytes)?;
    let nowhere = Context::without_descriptors();
    let mut fields = Fields::of(Content::of(header.body, &nowhere), "the image");
    let listed: Vec<u32> = fields.get(field::DESCRIPTORS);
    let mode: Mode = fields.get(field::MODE);
    let previous = fields.take_one(field::PREVIOUS_PROGRAM).and_then(|content| u32::try_from(content.number()).ok());
    let number = handover::number(image);
    let (mut inherited, missing) = Inherited::new(&[&listed[..], &[number]].concat());
    let resumption = Resumption {
        body: header.body,
        image: inherited.take(number),
        previous: previous.and_then(|number| inherited.take(number)),
        place: format!("{number},{}", moment::since_boot(began)),
        listed,
        missing,
        began,
        failed,
        from: format!("{} (format {})", header.version, header.format),
    };
    let context = Context::of(inherited);
    let served = match mode {
        Mode::Neutral => neutral::resume(resumption.state(&context)?),
        Mode::Conmon => conmon::resume(resumption.state(&context)?),
        Mode::Containerd => containerd::resume(resumption.state(&context)?),
    };
    Ok(served?)
}

/// The image of the previous program, and how to give the process back to it.
struct Resumption<'a> {
    body: &'a [u8],
    image: Option<OwnedFd>,
    /// The program that has written the image.
    previous: Option<OwnedFd>,
    place: String,
    listed: Vec<u32>,
    missing: Vec<u32>,
    began: Instant,
    /// Why the other program has given the process back.
    failed: Option<String>,
    from: String,
}

impl Resumption<'_> {
    /// The state, with everything watched again and the request answered. Does not return if the previous program
    /// takes the process back. If it cannot, this program continues with what it has read and can watch, because
    /// without a shim nobody would learn of the end of a container.
    fn state<F: Upgradable>(mut self, context: &Context) -> Result<(Supervisor, F), Fault> {
        let fields = Fields::of(Content::of(self.body, context), "the image");
        let mut state = State::<F>::read(fields).map_err(Fault::from).inspect_err(|fault| self.give_back(fault))?;
        let read = context.finish().inspect_err(|fault| self.give_back(fault));
        let watched = state.watch_again().map_err(Fault::from);
        if let (Ok(()), Err(why)) = (&read, &watched) {
            self.give_back(why);
        }
        let found = read.and(watched);
        context.close_rest();
        drop((self.image.take(), self.previous.take()));
        let State { mut core, front, token } = state;
        self.log_outcome(&front, &found);
        let refused = |why: &dyn fmt::Display| Err(Refusal::new(Code::Kernel, format!("{NOT_CONTINUED}: {why}")));
        let answer = match (&self.failed, &found) {
            (Some(why), _) => refused(why),
            (None, Err(why)) => refused(why),
            (None, Ok(())) => Ok(Reply::Done),
        };
        core.resumed(token, answer, self.began.elapsed());
        Ok((core, front))
    }

    fn log_outcome<F: Upgradable>(&self, front: &F, found: &Result<(), Fault>) {
        let version = env!("CARGO_PKG_VERSION");
        front.log(&match &self.failed {
            None => format!("upgraded from version {} to version {version}", self.from),
            Some(why) => format!("upgrade failed, version {version} continues: {why}"),
        });
        if !self.missing.is_empty() {
            front.log(&format!("descriptors lost in the upgrade: {:?}", self.missing));
        }
        if let Err(why) = found {
            front.log(&format!("a part of the state is lost in the upgrade, or is not watched: {why}"));
        }
    }

    /// Executes the previous program again. Returns if that is not possible, or was tried already.
    fn give_back(&self, why: &Fault) {
        let (Some(previous), Some(image), None) = (&self.previous, &self.image, &self.failed) else { return };
        let own = [handover::number(image.as_fd()), handover::number(previous.as_fd())];
        let open = |number: &u32| !self.missing.contains(number);
        let kept: Vec<u32> = self.listed.iter().copied().filter(open).chain(own).collect();
        let environment: Vec<_> = call::environment().collect();
        let failed =
            handover::execute(previous.as_fd(), &words(&self.place, Some(&why.to_string())), &environment, &kept);
        print_error(NAME, &format!("upgrade failed: {why}; the previous program cannot be executed: {failed}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::format::Encoder;

    /// Two bodies of one state: one with the numbers of its descriptors, one for a comparison.
    type Bodies = [Vec<u8>; 2];

    /// The state of an image, written down again.
    fn again<F: Upgradable>(body: &[u8]) -> Bodies {
        let context = Context::without_descriptors();
        let mut fields = Fields::of(Content::of(body, &context), "the image");
        fields.take(field::NAME);
        let state = State::<F>::read(fields).expect("a supervisor");
        assert_eq!(context.finish(), Ok(()));
        let written = [Encoder::default(), Encoder::anonymous()].map(|mut to| {
            to.put(field::FRONT, true, &state.front);
            let start = to.begin(field::CORE, true);
            supervisor::save(&state.core, &mut to);
            to.end(start);
            to.put(field::TOKEN, true, &state.token);
            to.finish().0
        });
        std::mem::forget(state);
        written
    }

    fn golden(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/images/1/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("an image")
    }

    /// If the previous program cannot be executed either, the rest of the state is continued.
    #[test]
    fn a_fault_without_a_way_back_is_answered_and_the_rest_continues() {
        let image = golden("conmon");
        let context = Context::without_descriptors();
        context.fault(Fault::MissingKind("a kind"));
        let resumption = Resumption {
            body: format::header(&image).expect("an image").body,
            image: None,
            previous: None,
            place: String::new(),
            listed: Vec::new(),
            missing: Vec::new(),
            began: windlass_sys::clock::now(),
            failed: None,
            from: String::new(),
        };
        let state = resumption.state::<Controlled<conmon::ConmonFront>>(&context);
        let Ok((mut core, front)) = state else { panic!("it does not continue") };
        let answer = std::iter::from_fn(|| core.next_event()).find_map(|event| match event {
            crate::Event::Finished { result, .. } => Some(result),
            _ => None,
        });
        let refusal = answer.expect("an answer").expect_err("a fault");
        assert!(refusal.message.starts_with(NOT_CONTINUED) && refusal.message.contains("a kind"), "{refusal}");
        // Their drop would have effects outside of this process.
        std::mem::forget((core, front));
    }

    #[test]
    fn an_image_of_each_mode_that_is_written_down_again_is_the_same() {
        let same = |name: &str, of: fn(&[u8]) -> Bodies| {
            let image = golden(name);
            let [numbered, first] = of(format::header(&image).expect("an image").body);
            let [_, mut second] = of(&numbered);
            // The program counts the upgrades.
            assert_eq!(first.len(), second.len(), "{name}");
            let differ = first.iter().zip(&mut second).filter(|(a, b)| a != b).count();
            assert!(differ <= 1, "{name}: {differ} bytes differ");
        };
        same("neutral", again::<neutral::NeutralFront>);
        same("conmon", again::<Controlled<conmon::ConmonFront>>);
        same("containerd", again::<Controlled<containerd::ContainerdFront>>);
    }
}
