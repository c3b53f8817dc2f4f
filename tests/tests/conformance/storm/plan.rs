//! What becomes of one stream: said by its path, by chance from a seed.

/// Before the application answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it is released.
    Held,
    /// So long.
    Milliseconds(u64),
}

/// How the application ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// 200 with so many bytes.
    Answer(usize),
    /// 200 with so many bytes, and a reset where the end should be.
    Break(usize),
    /// A reset instead of an answer.
    Reset,
    /// A reset that says that nothing was done.
    Refuse,
}

/// When the client gives it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Never.
    No,
    /// Before the answer.
    Early,
    /// With the first bytes of the answer.
    InBody,
    /// Before the request's body has ended.
    InRequest,
}

/// One stream.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Before the answer.
    pub wait: Wait,
    /// The answer.
    pub ending: Ending,
    /// The client's part.
    pub cancel: Cancel,
    /// Bytes of the request's body.
    pub request_bytes: usize,
}

impl Plan {
    /// 200 with a few bytes.
    pub fn plain(wait: Wait) -> Self {
        Self {
            wait,
            ending: Ending::Answer(100),
            cancel: Cancel::No,
            request_bytes: 0,
        }
    }

    /// By chance: about half of them end well.
    pub fn random(random: &mut fastrand::Rng, held: bool) -> Self {
        let bytes = [1, 100, 1_000, 20_000, 70_000][random.usize(..5)];
        let ending = match random.u8(..20) {
            0..14 => Ending::Answer(bytes),
            14..16 => Ending::Break(bytes),
            16..18 => Ending::Reset,
            _ => Ending::Refuse,
        };
        let cancel = match random.u8(..20) {
            0..14 => Cancel::No,
            14..17 => Cancel::Early,
            17 => Cancel::InBody,
            // What is held must have come whole.
            _ if held => Cancel::Early,
            _ => Cancel::InRequest,
        };
        Self {
            wait: if held {
                Wait::Held
            } else {
                Wait::Milliseconds(random.u64(..20))
            },
            ending,
            cancel,
            request_bytes: [0, 0, 10, 5_000, 40_000][random.usize(..5)],
        }
    }

    /// The path that tells the application.
    pub fn path(&self) -> String {
        let wait = match self.wait {
            Wait::Held => "held".to_owned(),
            Wait::Milliseconds(time) => time.to_string(),
        };
        let (ending, bytes) = match self.ending {
            Ending::Answer(bytes) => ("answer", bytes),
            Ending::Break(bytes) => ("break", bytes),
            Ending::Reset => ("reset", 0),
            Ending::Refuse => ("refuse", 0),
        };
        format!("/{wait}/{ending}/{bytes}")
    }
}

/// What a path says.
pub fn read(path: &str) -> (Wait, Ending) {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let [wait, ending, bytes] = parts.as_slice() else {
        panic!("{path}");
    };
    let wait = match *wait {
        "held" => Wait::Held,
        time => Wait::Milliseconds(time.parse().unwrap()),
    };
    let bytes = bytes.parse().unwrap();
    let ending = match *ending {
        "answer" => Ending::Answer(bytes),
        "break" => Ending::Break(bytes),
        "reset" => Ending::Reset,
        _ => Ending::Refuse,
    };
    (wait, ending)
}

#[test]
fn the_path_says_what_was_planned() {
    let mut random = fastrand::Rng::with_seed(1);
    for held in [true, false].into_iter().cycle().take(1_000) {
        let plan = Plan::random(&mut random, held);
        assert_eq!(read(&plan.path()), (plan.wait, plan.ending));
    }
}
