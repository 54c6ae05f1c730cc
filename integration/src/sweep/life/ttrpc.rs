//! The part of ttrpc and Protocol Buffers that containerd and a shim use: a client whose waits have a time limit, and
//! the service that receives events.

use super::super::stage::LIMIT;
use super::client::{connect, trouble};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The first bytes of a frame: length, stream, type and flags.
const HEAD: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// The fields of a message to send.
#[derive(Clone, Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Adds a number.
    pub fn number(mut self, field: u32, value: u64) -> Fields {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    /// Adds a string, bytes or a message.
    pub fn bytes(mut self, field: u32, value: impl AsRef<[u8]>) -> Fields {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.as_ref().len() as u64);
        self.0.extend_from_slice(value.as_ref());
        self
    }
}

impl AsRef<[u8]> for Fields {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A received message. Its fields are numbers and bytes.
#[derive(Clone, Copy)]
pub struct Message<'a>(pub &'a [u8]);

impl<'a> Message<'a> {
    fn fields(self) -> Vec<(u64, u64, &'a [u8])> {
        let mut rest = self.0;
        let mut fields = Vec::new();
        while let Some(tag) = varint(&mut rest) {
            let Some(value) = varint(&mut rest) else { break };
            let mut bytes = &rest[..0];
            if tag & 7 == 2 {
                (bytes, rest) = rest.split_at(rest.len().min(value as usize));
            }
            fields.push((tag >> 3, value, bytes));
        }
        fields
    }

    /// A number; 0 if the field is missing.
    pub fn number(self, field: u64) -> u64 {
        self.fields().iter().find(|(number, _, _)| *number == field).map_or(0, |(_, value, _)| *value)
    }

    /// Bytes; empty if the field is missing.
    pub fn bytes(self, field: u64) -> &'a [u8] {
        self.fields().iter().find(|(number, _, _)| *number == field).map_or(&[], |(_, _, bytes)| bytes)
    }

    /// Bytes as text.
    pub fn text(self, field: u64) -> String {
        String::from_utf8_lossy(self.bytes(field)).into_owned()
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn frame(stream: u32, kind: u8, message: &Fields) -> Vec<u8> {
    let mut frame = Vec::from((message.0.len() as u32).to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(&message.0);
    frame
}

fn read_frame(stream: &mut UnixStream) -> std::io::Result<(u32, Vec<u8>)> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head)?;
    let [a, b, c, d, e, f, g, h, ..] = head;
    let mut body = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
    stream.read_exact(&mut body)?;
    Ok((u32::from_be_bytes([e, f, g, h]), body))
}

/// A connection to a task service.
pub struct Client(UnixStream);

impl Client {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Client, String> {
        connect(path).map(Client)
    }

    /// Sends a request.
    pub fn ask(&mut self, method: &str, payload: &Fields) -> Result<(), String> {
        let request = Fields::default().bytes(1, "containerd.task.v2.Task").bytes(2, method).bytes(3, payload);
        self.0.write_all(&frame(1, REQUEST, &request)).map_err(|error| trouble(&error))
    }

    /// Receives the response.
    pub fn answer(&mut self) -> Result<Vec<u8>, String> {
        let (_, body) = read_frame(&mut self.0).map_err(|error| trouble(&error))?;
        let answer = Message(&body);
        let status = Message(answer.bytes(1));
        if status.number(1) == 0 { Ok(answer.bytes(2).to_vec()) } else { Err(format!("error {}", status.text(2))) }
    }
}

/// The service that receives the events of a shim and acknowledges them.
pub struct Events {
    stop: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

/// The interval at which a thread checks whether it is to end.
const LOOK: Duration = Duration::from_millis(2);

impl Events {
    /// Listens at this path.
    pub fn listen(path: &Path) -> std::io::Result<Events> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (is_over, into) = (stop.clone(), taken.clone());
        let thread = thread::spawn(move || {
            // One connection at a time, as a shim has one.
            while !is_over.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => serve(stream, &is_over, &into),
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        Ok(Events { stop, taken, thread: Some(thread) })
    }

    /// The received envelopes. One that was sent again is listed once.
    pub fn taken(&self) -> Vec<Vec<u8>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: UnixStream, is_over: &AtomicBool, into: &Mutex<Vec<Vec<u8>>>) {
    let _ = (stream.set_nonblocking(false), stream.set_write_timeout(Some(LIMIT)));
    loop {
        // Only the wait for the beginning of a frame is short. A frame that has begun is read to its end.
        let _ = stream.set_read_timeout(Some(LOOK));
        let mut first = [0; 1];
        match nix::sys::socket::recv(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            &mut first,
            nix::sys::socket::MsgFlags::MSG_PEEK,
        ) {
            Ok(0) => return,
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) if !is_over.load(Ordering::SeqCst) => continue,
            Err(_) => return,
        }
        let _ = stream.set_read_timeout(Some(LIMIT));
        let Ok((number, body)) = read_frame(&mut stream) else { return };
        let envelope = Message(Message(&body).bytes(3)).bytes(1).to_vec();
        {
            let mut taken = into.lock().unwrap_or_else(PoisonError::into_inner);
            if !taken.contains(&envelope) {
                taken.push(envelope);
            }
        }
        if stream.write_all(&frame(number, RESPONSE, &Fields::default())).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, Message};

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let inner = Fields::default().bytes(1, "text").number(2, 300);
        let outer = Fields::default().number(1, 7).bytes(15, &inner).bytes(16, "");
        let message = Message(outer.as_ref());
        assert_eq!((message.number(1), message.number(9)), (7, 0));
        let inner = Message(message.bytes(15));
        assert_eq!((inner.text(1).as_str(), inner.number(2)), ("text", 300));
        assert!(Message(b"\xff\xff").fields().is_empty(), "cut off");
    }
}
