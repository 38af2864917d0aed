//! Status codes as a bounded label.
//!
//! A node can answer with any of 900 codes, and each would be a series per node for ever. The codes that people ask
//! about have a series each; the rest of a hundred shares one (`4xx`). The usual ones exist from the start, so that a
//! rate over them is 0 and not "no data"; the others come with their first answer.

use std::sync::OnceLock;

use metrics::Counter;

/// Codes with a series of their own.
const KNOWN: [u16; 38] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411,
    412, 413, 414, 415, 417, 421, 422, 429, 431, 499, 500, 501, 502, 503, 504,
];

/// Label values for the rest of each hundred, and for what is no status at all.
const REST: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// Codes whose series exist from the start.
const FROM_THE_START: [u16; 8] = [200, 400, 404, 429, 500, 502, 503, 504];

/// One counter per known code and per rest of a hundred.
pub(super) struct CodeCounters {
    counters: [OnceLock<Counter>; KNOWN.len() + REST.len()],
}

impl CodeCounters {
    /// Counters of which `make` registers the usual ones at once.
    pub(super) fn new(make: impl Fn(String) -> Counter) -> CodeCounters {
        let codes = CodeCounters { counters: [const { OnceLock::new() }; KNOWN.len() + REST.len()] };
        for code in FROM_THE_START {
            codes.of(code, &make).increment(0);
        }
        codes
    }

    /// The counter of `status`, made by `make` from its label value if this is the first time.
    pub(super) fn of(&self, status: u16, make: impl Fn(String) -> Counter) -> &Counter {
        let place = match KNOWN.binary_search(&status) {
            Ok(place) => place,
            Err(_) => KNOWN.len() + usize::from(status / 100).wrapping_sub(1).min(REST.len() - 1),
        };
        let label = || KNOWN.get(place).map_or_else(|| REST[place - KNOWN.len()].to_owned(), u16::to_string);
        self.counters[place].get_or_init(|| make(label()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn every_number_has_a_label_and_there_are_few_of_them() {
        let made = RefCell::new(Vec::new());
        let make = |label: String| {
            made.borrow_mut().push(label);
            Counter::noop()
        };
        let codes = CodeCounters::new(make);
        assert_eq!(*made.borrow(), FROM_THE_START.map(|code| code.to_string()));
        for status in 0..=u16::MAX {
            codes.of(status, make);
        }
        assert_eq!(made.borrow().len(), KNOWN.len() + REST.len());
        for (status, label) in [(200, "200"), (299, "2xx"), (451, "4xx"), (599, "5xx"), (600, "other"), (0, "other")] {
            let place = std::ptr::from_ref(codes.of(status, make));
            let named = made.borrow().iter().position(|m| m == label).is_some();
            assert!(named && std::ptr::eq(place, codes.of(status, make)), "{status} -> {label}");
        }
    }

    #[test]
    fn the_table_is_sorted_for_the_search() {
        assert!(KNOWN.is_sorted());
    }
}
