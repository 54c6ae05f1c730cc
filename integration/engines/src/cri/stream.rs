//! The streams of exec, attach and port forward: WebSocket messages whose first byte is the
//! number of a channel (Kubernetes' protocol `v4.channel.k8s.io`).

use integration::kit::Verdict;
use integration::kit::stop::{Context, fail};
use std::net::TcpStream;
use std::time::Duration;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

/// Channel of standard input; of the data of a forwarded port.
pub const INPUT: u8 = 0;
/// Channel of the size of the terminal, as JSON.
pub const SIZE: u8 = 4;

/// An open stream.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    /// The received bytes by channel: data or standard output, standard error, the final status.
    pub came: [Vec<u8>; 4],
}

impl Stream {
    /// Opens the stream at the address that the engine gave.
    pub fn open(url: &str) -> Verdict<Stream> {
        let mut request = url.replacen("http://", "ws://", 1).into_client_request().context(url)?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("v4.channel.k8s.io"));
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let tcp = TcpStream::connect(&host).context(&host)?;
        tcp.set_read_timeout(Some(Duration::from_secs(60))).context("timeout")?;
        let (socket, _) = tungstenite::client(request, tcp).context(url)?;
        Ok(Stream { socket, came: Default::default() })
    }

    /// Sends to a channel.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) -> Verdict {
        let message = [&[channel], bytes].concat();
        self.socket.send(Message::binary(message)).context("send")
    }

    /// Takes one message; false at the end of the stream.
    fn receive(&mut self) -> Verdict<bool> {
        match self.socket.read() {
            Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(false),
            Ok(message) => {
                if let Some((channel, bytes)) = message.into_data().split_first()
                    && let Some(came) = self.came.get_mut(usize::from(*channel))
                {
                    came.extend_from_slice(bytes);
                }
                Ok(true)
            }
            // The server just leaves at the end.
            Err(Error::Protocol(_) | Error::Io(_)) if !self.came[3].is_empty() => Ok(false),
            Err(error) => fail(format!("the stream broke: {error}; it had {}", self.text())),
        }
    }

    /// Reads until `text` has come on any channel.
    pub fn until(&mut self, text: &str) -> Verdict {
        while !self.text().contains(text) {
            if !self.receive()? {
                return fail(format!("the stream ended without {text:?}: {}", self.text()));
            }
        }
        Ok(())
    }

    /// Reads to the end.
    pub fn end(&mut self) -> Verdict {
        while self.receive()? {}
        Ok(())
    }

    /// All that came, for a person.
    pub fn text(&self) -> String {
        self.came.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect()
    }
}
