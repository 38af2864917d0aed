//! A new process takes over the listening sockets of a running one, so that no connection is refused or reset.
//!
//! The running process listens on a unix socket. A new one that is started with the same settings connects there, gets
//! the sockets themselves (`SCM_RIGHTS`), and accepts on them beside the old one until that has stopped to. So
//! there is no moment without somebody who accepts, and a new process that fails to start changes nothing:
//!
//! ```text
//!     new                                   old
//!     connect                  --->         (of the same user) keep what was learned
//!                              <---         "bellwether 1 clients admin\n" and the sockets
//!     start to accept
//!     "ready\n"                --->         stop to accept, finish what runs
//!                              <---         "yours\n"
//!     listen on the unix socket             leave
//! ```
//!
//! Requests and client connections stay with the process that accepted them. What was changed by the admin API and is in
//! no configuration file is not handed over.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::net::UnixListener;

use crate::sockets::Sockets;

/// The longest wait for the other process to do its part: to read a state of the largest fleet, to finish a fit.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of the longest line.
const LINE_MAX: usize = 64;

const GREETING: &str = "bellwether 1";
const READY: &str = "ready\n";
const YOURS: &str = "yours\n";

/// Why sockets were not taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The other process cannot be talked to.
    #[error("the process at {} does not hand over its sockets: {source}", path.display())]
    Io {
        /// The unix socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is somebody else.
    #[error("the process at {} belongs to another user, or is none that hands over sockets", path.display())]
    Stranger {
        /// The unix socket.
        path: PathBuf,
    },
}

/// The process whose sockets this one got. Dropped without a word, that one goes on as if nothing had been.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

/// Asks the process that listens at `path` for its sockets; `None` if there is none.
///
/// # Errors
/// See [`HandoverError`]. It goes on then.
pub fn take_over(path: &Path) -> Result<Option<(Sockets, Predecessor)>, HandoverError> {
    let failed = |source| HandoverError::Io { path: path.to_path_buf(), source };
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    be_patient(&stream).map_err(failed)?;
    if !is_of_this_user(&stream) {
        return Err(HandoverError::Stranger { path: path.to_path_buf() });
    }
    let sockets = receive(&stream).map_err(failed)?;
    let sockets = sockets.ok_or_else(|| HandoverError::Stranger { path: path.to_path_buf() })?;
    Ok(Some((sockets, Predecessor(stream))))
}

impl Predecessor {
    /// Says that this process accepts connections, and waits until the other one does no longer.
    ///
    /// # Errors
    /// The other one has died meanwhile, or does not answer.
    pub fn relieve(mut self) -> io::Result<()> {
        self.0.write_all(READY.as_bytes())?;
        match line(&self.0)? == YOURS {
            true => Ok(()),
            false => Err(io::Error::other("the other process goes on accepting connections")),
        }
    }
}

/// The process that has taken the sockets over and accepts connections.
#[derive(Debug)]
pub struct Successor(UnixStream);

impl Successor {
    /// Says that this process accepts no connections any more.
    ///
    /// # Errors
    /// The other one has died.
    pub fn leave_to_it(mut self) -> io::Result<()> {
        self.0.write_all(YOURS.as_bytes())
    }
}

/// The unix socket at which the sockets of this process can be had.
#[derive(Debug)]
pub struct Offer {
    listener: UnixListener,
    sockets: Arc<Sockets>,
}

impl Offer {
    /// Offers `sockets` at `path`, to processes of the same user; in place of whoever offered there before. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// The path is no place for a socket, or a file that is none.
    pub fn open(path: &Path, sockets: Sockets) -> io::Result<Offer> {
        if fs::symlink_metadata(path).is_ok_and(|found| !is_socket(&found)) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        // Nobody finds it before only this user may use it.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        let placed =
            fs::set_permissions(&beside, Permissions::from_mode(0o600)).and_then(|()| fs::rename(&beside, path));
        if let Err(error) = placed {
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        Ok(Offer { listener, sockets: Arc::new(sockets) })
    }

    /// Waits until another process has taken the sockets over and accepts connections. `keep` is called before each that
    /// asks gets them, from another thread: to write down what it should begin with.
    pub async fn taken(&self, keep: impl Fn() + Clone + Send + 'static) -> Successor {
        loop {
            let asked = self.listener.accept().await;
            let (sockets, keep) = (Arc::clone(&self.sockets), keep.clone());
            let given = match asked.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => tokio::task::spawn_blocking(move || give(stream, &sockets, keep)).await,
                Err(error) => Ok(Err(error)),
            };
            match given {
                Ok(Ok(successor)) => return successor,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the sockets were not taken over, this process goes on");
                    // Out of descriptors, it would fail again at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(panic) => tracing::error!(%panic, "the sockets cannot be handed over"),
            }
        }
    }
}

fn give(stream: UnixStream, sockets: &Sockets, keep: impl Fn()) -> io::Result<Successor> {
    stream.set_nonblocking(false)?;
    be_patient(&stream)?;
    if !is_of_this_user(&stream) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a process of another user asked for them"));
    }
    keep();
    send(&stream, sockets)?;
    tracing::info!("a new process has got the sockets; waiting until it accepts connections");
    match line(&stream)? == READY {
        true => Ok(Successor(stream)),
        false => Err(io::Error::other("the new process did not start")),
    }
}

fn send(stream: &UnixStream, sockets: &Sockets) -> io::Result<()> {
    let named = [("clients", &sockets.clients), ("admin", &sockets.admin)];
    let held = named.iter().filter_map(|(name, socket)| Some((*name, socket.as_ref()?)));
    let (names, sockets): (Vec<&str>, Vec<_>) = held.map(|(name, socket)| (name, socket.as_fd())).unzip();
    let greeting = format!("{GREETING} {}\n", names.join(" "));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // There is room for two, and there are no more than two.
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    let sent = sendmsg(stream, &[IoSlice::new(greeting.as_bytes())], &mut control, SendFlags::empty())?;
    if sent == greeting.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The sockets that the other process sends; `None` if it says something else.
fn receive(stream: &UnixStream) -> io::Result<Option<Sockets>> {
    let mut bytes = [0; LINE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty())?;
    let mut handed: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            handed.extend(sockets);
        }
    }
    for socket in &handed {
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC)?;
    }
    let text = std::str::from_utf8(&bytes[..received.bytes]).unwrap_or_default();
    let names = text.strip_prefix(GREETING).and_then(|names| names.strip_suffix('\n'));
    let names: Vec<&str> = names.unwrap_or_default().split_ascii_whitespace().collect();
    if names.is_empty() || names.len() != handed.len() {
        return Ok(None);
    }
    let mut sockets = Sockets::default();
    for (name, socket) in names.into_iter().zip(handed) {
        match name {
            "clients" => sockets.clients = Some(TcpListener::from(socket)),
            "admin" => sockets.admin = Some(TcpListener::from(socket)),
            _ => {}
        }
    }
    Ok(Some(sockets))
}

fn be_patient(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// The next line, with its end; what there is if there is no whole one.
fn line(stream: &UnixStream) -> io::Result<String> {
    let mut text = String::new();
    BufReader::new(io::Read::take(stream, LINE_MAX as u64)).read_line(&mut text)?;
    Ok(text)
}

fn is_socket(found: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&found.file_type())
}

/// Whether the process at the other end belongs to the user of this one. Where the system does not say, only the
/// permissions of the socket protect it.
fn is_of_this_user(stream: &UnixStream) -> bool {
    #[cfg(target_os = "linux")]
    let same = rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid());
    #[cfg(not(target_os = "linux"))]
    let same = stream.peer_addr().is_ok();
    same
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn sockets() -> (Sockets, [std::net::SocketAddr; 2]) {
        let open = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (clients, admin) = (open(), open());
        let at = [&clients, &admin].map(|listener| listener.local_addr().expect("bound"));
        (Sockets { clients: Some(clients), admin: Some(admin) }, at)
    }

    fn addresses(sockets: &Sockets) -> [Option<std::net::SocketAddr>; 2] {
        [&sockets.clients, &sockets.admin].map(|socket| socket.as_ref()?.local_addr().ok())
    }

    #[tokio::test]
    async fn sockets_are_taken_over_only_once_the_new_process_is_ready() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("handover");
        assert!(take_over(&path).expect("nobody is no mistake").is_none());
        let (offered, at) = sockets();
        let offer = Offer::open(&path, offered).expect("a place");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let kept = Arc::new(AtomicU32::new(0));
        let keeps = Arc::clone(&kept);
        let taken = tokio::spawn(async move { offer.taken(move || _ = keeps.fetch_add(1, Ordering::SeqCst)).await });
        let there = path.clone();
        let new = tokio::task::spawn_blocking(move || {
            // One that gets the sockets and dies changes nothing.
            let (sockets, predecessor) = take_over(&there).expect("answers").expect("there");
            assert_eq!(addresses(&sockets), at.map(Some));
            drop((sockets, predecessor));
            let (sockets, predecessor) = take_over(&there).expect("answers").expect("there");
            (sockets, predecessor.relieve())
        });
        taken.await.expect("no panic").leave_to_it().expect("it lives");
        let (sockets, relieved) = new.await.expect("no panic");
        relieved.expect("the old one has stopped");
        assert_eq!((addresses(&sockets), kept.load(Ordering::SeqCst)), (at.map(Some), 2));
        // The next one takes the place of the socket that is left.
        let offer = Offer::open(&path, sockets).expect("a place");
        drop(offer);
        assert!(take_over(&path).expect("nobody is no mistake").is_none());
    }

    #[tokio::test]
    async fn who_answers_something_else_hands_over_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("handover");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a place");
        for said in ["", "HTTP/1.1 400 Bad Request\r\n\r\n", "bellwether 1 clients\n", "bellwether 2 clients admin\n"] {
            let there = path.clone();
            let new = tokio::task::spawn_blocking(move || take_over(&there));
            let (mut stream, _) = listener.accept().expect("it comes");
            stream.write_all(said.as_bytes()).expect("it reads");
            drop(stream);
            let refused = new.await.expect("no panic");
            assert!(matches!(refused, Err(HandoverError::Stranger { .. })), "{said:?}: {refused:?}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "mine").expect("written");
        assert!(Offer::open(&file, Sockets::default()).is_err());
        assert_eq!(fs::read_to_string(&file).expect("there"), "mine");
    }
}
