//! What a run looks like on the terminal: a VM's words as it wrote them, Umbra's told apart.

use crate::console::{HOST, Line};
use crate::qemu::Watch;
use crate::ui::{Style, err};
use hyp_abi::console::{GUEST_TAG, UMBRA};
use std::collections::BTreeMap;
use std::io::Write;

/// Shows the consoles: guests on `out`, Umbra's and the host partition's lines on `aside`, with a prefix each.
pub(crate) struct Screen<O: Write, A: Write> {
    out: O,
    aside: A,
    /// Guests' names by channel.
    guests: BTreeMap<u8, String>,
    /// Whether guests' lines that are records are shown: always for images that are not ours.
    records: bool,
    /// Whether Umbra's and the host's records are shown too.
    verbose: bool,
    held: Vec<u8>,
    swallow: bool,
    mid_line: bool,
    /// What each of several guests has written of its line so far.
    begun: BTreeMap<u8, Vec<u8>>,
    /// Which of them spoke last.
    last: u8,
    /// Whose unfinished line is the last on the screen.
    open: Option<u8>,
}

/// A line of one of several guests is shown in pieces of this length at most.
const LONGEST: usize = 4096;

impl<O: Write, A: Write> Screen<O, A> {
    /// A screen for `guests`. The records of `own` images are kept back unless `verbose`.
    pub(crate) fn new(out: O, aside: A, guests: BTreeMap<u8, String>, own: bool, verbose: bool) -> Self {
        Self {
            out,
            aside,
            guests,
            records: !own || verbose,
            verbose,
            held: Vec::new(),
            swallow: false,
            mid_line: false,
            begun: BTreeMap::new(),
            last: UMBRA,
            open: None,
        }
    }

    fn tagged(&self) -> bool {
        self.guests.len() > 1
    }

    /// Shows bytes of the only guest. A reader that went away is no reason to end the run.
    fn show(&mut self, bytes: &[u8]) {
        let _ = self.out.write_all(bytes);
        if let Some(last) = bytes.last() {
            self.mid_line = *last != b'\n';
        }
    }

    fn aside(&mut self, style: Style, prefix: &str, text: &str) {
        if self.mid_line {
            // The guest's line goes on after this one; on a terminal ours must not be glued to it.
            let _ = self.out.flush();
            let _ = writeln!(self.aside);
            self.open = None;
        }
        let _ = writeln!(self.aside, "{} {text}", err(style, prefix));
    }

    /// A byte of one of several guests: lines stay whole, and the one that goes on at the end of the screen goes on there.
    fn tagged_byte(&mut self, channel: u8, byte: u8) {
        self.last = channel;
        let line = self.begun.entry(channel).or_default();
        line.push(byte);
        let ends = byte == b'\n' || line.len() >= LONGEST;
        if self.open == Some(channel) {
            self.show(&[byte]);
        } else if ends {
            self.show_begun(channel);
        }
        if ends {
            if byte != b'\n' {
                self.show(b"\n");
            }
            self.begun.remove(&channel);
            self.open = None;
        }
    }

    /// Shows what a guest has written of its line so far, on a line of its own.
    fn show_begun(&mut self, channel: u8) {
        if self.open.is_some() {
            self.show(b"\n");
        }
        let name = self.guests.get(&channel).map_or("?", String::as_str);
        let mut text = format!("[{name}] ").into_bytes();
        text.extend_from_slice(self.begun.get(&channel).map_or(&[], Vec::as_slice));
        self.show(&text);
        self.open = Some(channel);
    }
}

impl<O: Write, A: Write> Watch for Screen<O, A> {
    fn byte(&mut self, channel: u8, byte: u8) {
        if channel == UMBRA || channel == HOST {
            return;
        }
        if self.tagged() {
            if self.records {
                self.tagged_byte(channel, byte);
            }
            return;
        }
        if self.records {
            return self.show(&[byte]);
        }
        if self.swallow {
            self.swallow = byte != b'\n';
            return;
        }
        if self.mid_line {
            return self.show(&[byte]);
        }
        // At the beginning of a line: keep it back for as long as it may turn out to be a record.
        self.held.push(byte);
        if self.held == GUEST_TAG.as_bytes() {
            self.held.clear();
            self.swallow = true;
        } else if !GUEST_TAG.as_bytes().starts_with(&self.held) {
            let held = std::mem::take(&mut self.held);
            self.show(&held);
        }
    }

    fn line(&mut self, line: &Line) {
        match line.channel {
            UMBRA if !line.record || self.verbose => self.aside(Style::Umbra, "umbra|", &line.text),
            HOST if !line.record || self.verbose => self.aside(Style::Host, "host| ", &line.text),
            UMBRA | HOST => {}
            channel if self.tagged() && !self.records && !line.record => {
                let name = self.guests.get(&channel).map_or("?", String::as_str);
                let _ = writeln!(self.out, "[{name}] {}", line.text);
            }
            _ => {}
        }
    }

    fn pause(&mut self, idle: bool) {
        // A prompt has no line end: whoever spoke last may be waiting for an answer.
        if idle && self.open != Some(self.last) && self.begun.contains_key(&self.last) {
            self.show_begun(self.last);
        }
        let _ = self.out.flush();
    }
}

impl<O: Write, A: Write> Drop for Screen<O, A> {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.show(&held);
        let begun: Vec<u8> = self.begun.keys().copied().filter(|c| self.open != Some(*c)).collect();
        for channel in begun {
            self.show_begun(channel);
        }
        if self.mid_line {
            let _ = self.out.write_all(b"\n");
        }
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Demux, Transcript};

    fn show(guests: &[(u8, &str)], own: bool, wire: &[u8]) -> (String, String) {
        show_in_pieces(guests, own, &[wire])
    }

    /// As if nothing came for a moment after each piece of the wire.
    fn show_in_pieces(guests: &[(u8, &str)], own: bool, pieces: &[&[u8]]) -> (String, String) {
        let (mut out, mut aside) = (Vec::new(), Vec::new());
        {
            let guests = guests.iter().map(|(c, n)| (*c, (*n).to_owned())).collect();
            let mut screen = Screen::new(&mut out, &mut aside, guests, own, false);
            let (mut demux, mut transcript) = (Demux::new(), Transcript::default());
            for wire in pieces {
                demux.feed(wire, |channel, byte| {
                    screen.byte(channel, byte);
                    if let Some(line) = transcript.push(channel, byte) {
                        screen.line(&line);
                    }
                });
                screen.pause(true);
            }
        }
        (String::from_utf8(out).expect("text"), String::from_utf8(aside).expect("text"))
    }

    #[test]
    fn one_guest_is_shown_as_it_wrote() {
        let wire = b"boot\n\x0eBlogin: \x1b[1mx\x1b[0m\r\n@guest a=1\nlast";
        let (out, aside) = show(&[(2, "a")], false, wire);
        assert_eq!(out, "login: \x1b[1mx\x1b[0m\r\n@guest a=1\nlast\n");
        assert!(aside.contains("umbra|") && aside.contains("boot"), "{aside}");
    }

    #[test]
    fn records_of_our_own_guests_are_kept_back() {
        let wire = b"\x0eBone\n@guest phase=umbra n=1\n@guests are fine\n@gu";
        assert_eq!(show(&[(2, "a")], true, wire).0, "one\n@guests are fine\n@gu\n");
        assert_eq!(show(&[(2, "a"), (3, "b")], true, wire).0, "[a] one\n[a] @guests are fine\n");
    }

    #[test]
    fn lines_of_two_guests_are_tagged_and_never_mixed() {
        let wire = b"\x0eBhel\x0eCwor\x0eBlo\n\x0eCld\n";
        assert_eq!(show(&[(2, "a"), (3, "b")], false, wire).0, "[a] hello\n[b] world\n");
    }

    #[test]
    fn a_prompt_of_one_of_two_guests_is_shown_while_it_waits_and_again_after_the_other_spoke() {
        let pieces: [&[u8]; 3] = [b"\x0eBlogin: ", b"\x0eCnews\n", b"\x0eBroot\n"];
        let out = show_in_pieces(&[(2, "a"), (3, "b")], false, &pieces).0;
        assert_eq!(out, "[a] login: \n[b] news\n[a] login: root\n");
        let pieces: [&[u8]; 2] = [b"\x0eBlogin: ", b"root\n"];
        assert_eq!(show_in_pieces(&[(2, "a"), (3, "b")], false, &pieces).0, "[a] login: root\n");
    }

    #[test]
    fn umbras_records_stay_off_the_screen() {
        let (out, aside) = show(
            &[(2, "a")],
            true,
            b"@umbra boot el=2\nfound 4 list registers\n\x0eA@host phase=x\nready\n",
        );
        assert_eq!(out, "");
        assert_eq!(aside.lines().count(), 2, "{aside}");
    }
}
