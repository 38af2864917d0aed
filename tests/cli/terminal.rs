//! `top` on a terminal: what it draws, how it ends, and that the terminal is then as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use bellwether::node::NodeSpec;
use bellwether::server::Server;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::node::{proxy, start};
use crate::{Running, bellwether};

/// How long anything may take on a busy machine before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// A pseudo terminal, both ends of it.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
    written: Receiver<Vec<u8>>,
    unread: String,
}

impl Terminal {
    fn open(columns: u16, rows: u16) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let ours = File::from(ours);
        let (sender, written) = mpsc::channel();
        let mut reader = ours.try_clone().unwrap();
        // It ends when the other end is closed, which the test does last.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut piece) {
                // The test may have seen enough.
                let _ = sender.send(piece[..read].to_vec());
            }
        });
        let terminal = Terminal { ours, theirs, written, unread: String::new() };
        terminal.resize(columns, rows);
        terminal
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.theirs, size).unwrap();
    }

    /// Local modes and special keys.
    fn modes(&self) -> (LocalModes, String) {
        let modes = tcgetattr(&self.theirs).unwrap();
        (modes.local_modes, format!("{:?}", modes.special_codes))
    }

    fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Starts `top` in a session of its own, whose terminal this is.
    fn top(&self, server: &Server) -> Running {
        let top = bellwether(&["top", "--admin", &server.admin_address().to_string()]);
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(top.get_program()).args(top.get_args()).env("TERM", "xterm");
        let end = || Stdio::from(self.theirs.try_clone().unwrap());
        Running(command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap())
    }

    /// What was written up to and with `mark`.
    fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.unread.find(mark) {
                let rest = self.unread.split_off(at + mark.len());
                return std::mem::replace(&mut self.unread, rest);
            }
            let piece = self.written.recv_timeout(PATIENCE);
            let piece = piece.unwrap_or_else(|error| panic!("no {mark:?}: {error} after {:?}", self.unread));
            self.unread.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    /// The lines of the next frame.
    fn frame(&mut self) -> Vec<String> {
        self.until("\x1b[?2026h\x1b[H");
        let frame = self.until("\x1b[?2026l");
        let text = frame.trim_end_matches("\x1b[?2026l").trim_end_matches("\x1b[J").replace("\x1b[K", "");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        text.split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect()
    }
}

fn forty() -> Server {
    let url = format!("http://{}", start());
    proxy((0..40).map(|at| NodeSpec::new(&url).named(format!("n{at}"))).collect())
}

#[test]
fn top_draws_on_a_terminal_of_any_size_and_leaves_it_as_it_was() {
    let (server, mut terminal) = (forty(), Terminal::open(120, 24));
    let before = terminal.modes();
    assert!(before.0.contains(LocalModes::ICANON | LocalModes::ECHO));
    let running = terminal.top(&server);
    assert!(terminal.until("\x1b[?1049h").ends_with("\x1b[?1049h"));
    let frame = terminal.frame();
    assert!(frame[0].starts_with("bellwether  adaptive: least-connections routes"), "{frame:?}");
    assert!(frame[4].starts_with("node") && frame[5].starts_with("n0 "), "{frame:?}");
    assert_eq!((frame.len(), frame[23].as_str()), (24, "and 22 more"));
    let meanwhile = terminal.modes().0;
    assert!(!meanwhile.intersects(LocalModes::ICANON | LocalModes::ECHO) && meanwhile.contains(LocalModes::ISIG));
    terminal.resize(60, 15);
    // One may have been drawn, or be about to be, at the size before.
    let small = (0..3).map(|_| terminal.frame()).find(|frame| frame.len() == 15).expect("a frame of the new size");
    assert_eq!(small[14], "and 31 more");
    // No other key does anything, nor do those that stop or abort programs.
    terminal.press("x\x1a\x1c\x04");
    terminal.frame();
    terminal.press("q");
    assert!(terminal.until(LEAVE).ends_with(LEAVE));
    assert_eq!(running.wait().code(), Some(0));
    assert_eq!((terminal.modes(), terminal.unread.as_str()), (before, ""));
    server.stop(Duration::ZERO);
}

#[test]
fn ctrl_c_ends_top_and_the_terminal_is_as_it_was() {
    let (server, mut terminal) = (forty(), Terminal::open(60, 15));
    let before = terminal.modes();
    let running = terminal.top(&server);
    assert_eq!(terminal.frame().len(), 15);
    terminal.press("\x03");
    terminal.until(LEAVE);
    assert_eq!((running.wait().code(), terminal.modes()), (Some(0), before));
    server.stop(Duration::ZERO);
}

#[test]
fn a_proxy_that_goes_leaves_the_terminal_with_a_message_on_the_screen_of_before() {
    let (server, mut terminal) = (forty(), Terminal::open(60, 15));
    let before = terminal.modes();
    let running = terminal.top(&server);
    terminal.frame();
    server.stop(Duration::ZERO);
    terminal.until(LEAVE);
    let message = terminal.until("Name the address with --admin");
    assert!(message.starts_with("error: nothing answers at "), "{message:?}");
    assert_eq!((running.wait().code(), terminal.modes()), (Some(1), before));
}
