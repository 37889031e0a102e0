//! Requests of HTTP/1.0 from this machine: as much as the suites need.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// For a server inside this machine to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// What it holds.
    pub body: String,
}

/// Asks a server.
pub fn request(method: &str, address: Ipv4Addr, port: u16, path: &str, body: &str) -> io::Result<Answer> {
    let mut connection = TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    write!(
        connection,
        "{method} {path} HTTP/1.0\r\nHost: {address}:{port}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = Vec::new();
    connection.read_to_end(&mut text)?;
    parse(&String::from_utf8_lossy(&text)).ok_or_else(|| io::Error::other("the answer is not HTTP"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = parse("HTTP/1.1 403 Forbidden\r\nServer: x\r\n\r\nno\n");
        assert_eq!(
            answer,
            Some(Answer {
                status: 403,
                body: "no\n".to_owned()
            })
        );
        assert_eq!(parse("ssh"), None);
    }
}
