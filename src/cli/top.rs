//! `bellwether top`: the fleet of a running proxy, as a table that stays in its place.
//!
//! It reads the stream that the dashboard reads, so it asks for nothing that was not made anyway, and works where a
//! browser does not reach: over ssh, in a container. On a terminal it draws on the alternate screen, a whole frame in
//! one write, so nothing flickers and the shell's text is back afterwards. Elsewhere it writes a line per interval.
//! Its only key ends it: changing something is what the admin API and the dashboard are for.

mod board;
mod keyboard;

use std::io::{self, Write};
use std::ops::ControlFlow;

use clap::{Args, ValueEnum};
use serde_json::Value;

use self::board::Board;
use self::keyboard::Keyboard;
use super::remote::{RemoteArgs, WatchError};
use super::{Exit, Output, Screen};
use crate::config::Env;

/// The alternate screen, no cursor, and long lines cut instead of wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";

/// The screen as it was.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The size of a terminal that does not tell its own.
const SIZE: (u16, u16) = (80, 24);

/// Watch the fleet of a running proxy: nodes, shares, predictions, policy
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether top
  bellwether top --sort in-flight --interval 5
  bellwether top --once --output json --admin 10.0.0.5:8081 --token-env BELLWETHER_ADMIN_TOKEN
  bellwether top --interval 10 >> fleet.log

On a terminal the table is redrawn until q or Ctrl-C, elsewhere there is a line per interval.

Exit codes: 0 fine, 1 the proxy does not answer or refuses, 2 wrong usage.")]
pub(super) struct Top {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    interval: u32,
    /// Show it once, as a table, and end
    #[arg(long)]
    once: bool,
    /// Which nodes come first; those that get no work always do
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// For people, or for programs: the events of /api/v1/live, one a line
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// An order of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// As they were configured.
    #[default]
    Fleet,
    /// The largest share first.
    Share,
    /// The most in flight first.
    InFlight,
    /// The slowest first.
    P99,
    /// The most failed attempts first.
    Failed,
}

impl Top {
    pub(super) fn execute(&self, env: &Env, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let remote = match self.remote.remote(env) {
            Ok(remote) => remote,
            Err(error) => return Ok(error.show(screen)),
        };
        let dumb = env.get("TERM").is_some_and(|term| term == "dumb");
        let draws = screen.terminal && !dumb && !self.once && self.output == Output::Text;
        let watched = {
            let mut view = View {
                top: self,
                board: Board::new(self.sort),
                last_s: None,
                size: None,
                draws,
                out: &mut *screen.out,
            };
            let (_keyboard, quit) = if draws { Keyboard::take() } else { Keyboard::leave() };
            if draws {
                view.out.write_all(ENTER.as_bytes())?;
            }
            let path = if self.once { "/api/v1/live?events=1" } else { "/api/v1/live" };
            let each = |name: &str, event: &Value| {
                if name == "live" { view.show(event) } else { Ok(ControlFlow::Continue(())) }
            };
            remote.watch(path, quit, each)
        };
        match watched {
            Ok(()) => Ok(Exit::Fine),
            Err(WatchError::Shown(error)) => Err(error),
            Err(WatchError::Remote(error)) => Ok(error.show(screen)),
        }
    }
}

/// What is on the screen.
struct View<'a> {
    top: &'a Top,
    board: Board,
    /// When the last event was shown, by the instance's clock.
    last_s: Option<f64>,
    /// Columns and rows when a frame was drawn last.
    size: Option<(u16, u16)>,
    draws: bool,
    out: &'a mut dyn Write,
}

impl View<'_> {
    fn show(&mut self, event: &Value) -> io::Result<ControlFlow<()>> {
        let now_s = event["now_s"].as_f64().unwrap_or_default();
        // Events come a second apart, give or take a little; a clock that went back is another instance's.
        let due = self.last_s.is_none_or(|last| now_s < last || now_s - last > f64::from(self.top.interval) - 0.5);
        // A frame of another size is not one to look at until the next is due.
        if !due && (!self.draws || self.size == Some(size())) {
            return Ok(ControlFlow::Continue(()));
        }
        self.last_s = Some(now_s);
        match (self.top.output, self.top.once) {
            (Output::Json, _) => writeln!(self.out, "{event}")?,
            (Output::Text, true) => writeln!(self.out, "{}", self.board.page(event, usize::MAX).join("\n"))?,
            (Output::Text, false) if self.draws => self.draw(event)?,
            (Output::Text, false) => writeln!(self.out, "{}", self.board.line(event))?,
        }
        self.board.note(event);
        self.out.flush()?;
        Ok(if self.top.once { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// One frame, in one write: each line is written over the one before and its rest is cleared.
    fn draw(&mut self, event: &Value) -> io::Result<()> {
        let (width, height) = size();
        self.size = Some((width, height));
        let lines = self.board.page(event, usize::from(height));
        let frame = format!("\x1b[?2026h\x1b[H{}\x1b[K\x1b[J\x1b[?2026l", lines.join("\x1b[K\r\n"));
        self.out.write_all(frame.as_bytes())
    }
}

/// Columns and rows of the terminal.
fn size() -> (u16, u16) {
    terminal_size::terminal_size().map_or(SIZE, |(width, height)| (width.0, height.0))
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if self.draws {
            // If the terminal is gone there is nothing to restore.
            let _ = self.out.write_all(LEAVE.as_bytes()).and_then(|()| self.out.flush());
        }
    }
}
