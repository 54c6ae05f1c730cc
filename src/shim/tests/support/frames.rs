//! Any bytes from a client of the shim must be read or refused: the property tests on stable and the fuzz target on
//! nightly call the same function.

use windlass_base::protobuf::Message;
use windlass_shim::frontend::containerd::message::{options, start, task};
use windlass_shim::frontend::containerd::ttrpc::{Request, next_frame};

/// Reads bytes as frames, in them requests, in them messages. A message that was read is written and read again as the
/// same.
pub fn check(bytes: &[u8]) {
    fn stable<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
        let message = M::decode(bytes).ok()?;
        assert_eq!(M::decode(&message.encode()).as_ref(), Ok(&message));
        Some(message)
    }
    start::StartInput::read(bytes, "id", "ns").options();
    let mut rest = bytes;
    while let Ok(Some((frame, length))) = next_frame(rest) {
        rest = &rest[length..];
        let Some(request) = stable::<Request>(frame.body) else { continue };
        let payload = &request.payload[..];
        if let Some(create) = stable::<task::Create>(payload) {
            // A path in the options is not to be read here.
            let inline = create.options.filter(|any| any.name() != "runtimeoptions.v1.Options");
            let _ = options::Options::read(inline.as_ref());
        }
        stable::<task::Exec>(payload);
        stable::<task::Kill>(payload);
        stable::<task::ResizePty>(payload);
        stable::<task::CloseIo>(payload);
        stable::<task::Update>(payload);
        stable::<options::Checkpoint>(payload);
        if let Some(checkpoint) = stable::<task::Checkpoint>(payload) {
            checkpoint.options.map(|any| stable::<options::Checkpoint>(&any.value));
        }
    }
}
