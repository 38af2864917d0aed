//! Where operators come in: a TCP listener, or a socket in the file system.
//!
//! The socket is for the user of this process (and root) alone: its mode is set before anybody can connect, and the kernel
//! says who does. One that a killed process left behind is taken over; one that somebody answers on, or a file of
//! another kind, is not. It is removed in the end, unless a successor has put its own there meanwhile.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// Operators that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 256;

/// Who is at the other end; the accept loop puts it into each request.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    /// A machine.
    Address(SocketAddr),
    /// A process on this machine, by the socket; its user, as far as the kernel says it.
    User(Option<u32>),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(f),
            Peer::User(Some(uid)) => write!(f, "uid {uid}"),
            Peer::User(None) => f.write_str("an unknown user"),
        }
    }
}

/// A listener for operators.
#[derive(Debug)]
pub struct Door {
    socket: Listening,
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl From<std::net::TcpListener> for Door {
    fn from(listener: std::net::TcpListener) -> Door {
        Door { socket: Listening::Tcp(listener), file: None }
    }
}

impl Door {
    /// A socket at `path`, with mode 0600.
    ///
    /// # Errors
    /// Something else is there, or the directory is not there or not ours to write to.
    pub fn at(path: &Path) -> io::Result<Door> {
        clear(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = SocketFile::of(path)?;
        // Until it listens nobody can connect, whatever mode it was made with.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Door { socket: Listening::Unix(socket.into()), file: Some(file) })
    }

    /// Its address, if it has one.
    pub(super) fn address(&self) -> io::Result<Option<SocketAddr>> {
        match &self.socket {
            Listening::Tcp(listener) => listener.local_addr().map(Some),
            Listening::Unix(_) => Ok(None),
        }
    }

    /// Ready to accept, on the runtime that calls.
    pub(super) fn open(self) -> io::Result<OpenDoor> {
        let socket = match self.socket {
            Listening::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Accepting::Tcp(TcpListener::from_std(listener)?)
            }
            Listening::Unix(listener) => Accepting::Unix(UnixListener::from_std(listener)?),
        };
        Ok(OpenDoor { socket, _file: self.file })
    }
}

/// A connection, whatever carries it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A door that operators come through.
pub(super) struct OpenDoor {
    socket: Accepting,
    _file: Option<SocketFile>,
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl OpenDoor {
    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match &self.socket {
            Accepting::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Box::new(stream), Peer::Address(peer)))
            }
            Accepting::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|user| user.uid());
                Ok((Box::new(stream), Peer::User(uid)))
            }
        }
    }
}

/// The file of a socket, removed when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|present| present == self.identity) {
            // Whoever comes next takes it over if it stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Removes a socket that nobody answers on.
fn clear(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(file) => file.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something is there that is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_owner_alone_and_goes_with_its_door() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        let door = Door::at(&path).expect("bound");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let taken = Door::at(&path).expect_err("somebody listens");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(door.address().expect("a socket").is_none());
        drop(door);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_taken_over_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        // A socket of the standard library stays behind, as after a kill.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let door = Door::at(&path).expect("taken over");
        // A successor that replaced the file keeps it.
        fs::remove_file(&path).expect("removed");
        let successor = Door::at(&path).expect("bound");
        drop(door);
        assert!(path.exists());
        drop(successor);
        fs::write(&path, "precious").expect("written");
        assert_eq!(Door::at(&path).expect_err("a file").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
        assert!(Door::at(&dir.path().join("no/such.sock")).is_err());
    }
}
