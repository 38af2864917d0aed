//! The keyboard of a terminal on which `top` draws: keys are not shown, and one of them ends it.
//!
//! Ctrl-C stays the signal that it is, so that it works whatever else does not. Keys that stop or abort a program are
//! off: the shell would be left on the wrong screen. The terminal is as it was when this is dropped. Where input is
//! no terminal nobody types, and a signal ends it.

use std::io::{Read, stdin};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

/// A special key that no key is (`_POSIX_VDISABLE`).
const NO_KEY: u8 = 0;

/// A terminal in whose input lines are not edited and keys not shown.
#[derive(Debug)]
pub(super) struct Keyboard {
    before: Option<Termios>,
}

impl Keyboard {
    /// Leaves the keyboard to whoever has it.
    pub(super) fn leave() -> (Keyboard, oneshot::Receiver<()>) {
        (Keyboard { before: None }, oneshot::channel().1)
    }

    /// Takes the keyboard; what is returned besides tells once somebody has pressed `q`, and nothing otherwise.
    pub(super) fn take() -> (Keyboard, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let before = tcgetattr(stdin()).ok();
        if let Some(mut modes) = before.clone() {
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            modes.special_codes[SpecialCodeIndex::VMIN] = 1;
            modes.special_codes[SpecialCodeIndex::VTIME] = 0;
            modes.special_codes[SpecialCodeIndex::VSUSP] = NO_KEY;
            modes.special_codes[SpecialCodeIndex::VQUIT] = NO_KEY;
            // If that fails, a line with a `q` ends it.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &modes);
            // Nothing can end a read of a terminal, so the thread ends with the process.
            std::thread::spawn(move || {
                if stdin().lock().bytes().map_while(Result::ok).any(|key| key.eq_ignore_ascii_case(&b'q')) {
                    // Nobody listens where something else has ended it.
                    let _ = tell.send(());
                }
            });
        }
        (Keyboard { before }, told)
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // If the terminal is gone there is nothing to restore.
            let _ = tcsetattr(stdin(), OptionalActions::Flush, before);
        }
    }
}
