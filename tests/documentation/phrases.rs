//! The phrases that texts avoid, with the words to write instead: see [`wording`](crate::wording).

/// A phrase to avoid.
pub struct Avoided {
    /// A regular expression. A blank stands for any white space, a line break too. Letters match in both cases.
    pub pattern: &'static str,
    /// The words to write instead.
    pub instead: &'static str,
    /// A text in which the pattern is found.
    pub example: &'static str,
}

const fn avoid(pattern: &'static str, instead: &'static str, example: &'static str) -> Avoided {
    Avoided { pattern, instead, example }
}

pub const AVOIDED: &[Avoided] = &[
    // Constructions.
    avoid(
        r"(^|[.!?:|*>-]) *(?-i:What) ([^\s.?!]+ ){2,9}(is|are|was|were|has|have|does|gets?|goes|costs?|counts?|stands?|comes?|becomes?|ends?|belongs?|stays?|follows|enters?|did|must|can|cannot) [^.?!|:]{0,200}[.;]",
        "a sentence with an actor as its subject: 'Problems are reported', not 'What is odd is told'",
        "What is odd is told.",
    ),
    avoid(r"\bwho(m|so)?ever\b", "'anyone who', 'a user who', 'a client that'", "Whoever has a slot waits no more."),
    avoid(
        r"(^|[.!?|] ) *(?-i:The same|Nor|Neither)\.",
        "a whole sentence that repeats the fact",
        "It fails. The same.",
    ),
    avoid(
        r"(^|[.!?|] ) *(?-i:Nor) (does|do|is|are|has|have|can|did)\b",
        "a sentence of its own: '… does not …'",
        "| Nor does what is cut |",
    ),
    avoid(
        r"\b(has|have|had|having) (\S+ ){1,6}(done|built|made) by\b",
        "'runs … on': 'runs your builds on other machines'",
        "has the builds of GNU Guix done by other machines",
    ),
    avoid(
        r"\b(has|have|had|having) (systemd|guix-daemon|it|them|the daemon|the machine's daemon|the machine|this machine) (use|build|read|run|import|take|accept|restart|choose|trust)\b",
        "the plain verb, or 'tells … to', 'makes', 'configures'",
        "has the machine's daemon build",
    ),
    avoid(r"\b(is|are|was|were) to have\b", "'gets', 'should get'", "when it is to have builds again"),
    avoid(r"\b(that|which|it) (is|are) none\b", "'that is not a …'", "a path that is none"),
    avoid(
        r"\b(it|that|this|which) (is|are|was|were) no ([a-km-z]|l[a-np-z])",
        "'is not a …'",
        "what listens there, and it is no daemon",
    ),
    avoid(r"\bone that does not (is|are|has|was)\b", "name the subject again", "one that does not is not used"),
    avoid(r"\bnothing of (it|this|that|a|an|the|what)\b", "'no part of', or name the thing", "nothing of it is left"),
    // Words for reports.
    avoid(
        r"\b(is|are|was|were|be|been|being) told\b",
        "'is reported', 'is printed', 'is logged'; of two things: 'is distinguished from'",
        "the error is told",
    ),
    avoid(r"\b(is|are|was|were|be|been) said\b", "'is reported', 'is printed', 'is logged'", "it is said once a day"),
    avoid(
        r"\b(it|them|they|machine|machines) tells? (its|their|of|only|nothing)\b",
        "'reports'",
        "the machine tells its load",
    ),
    avoid(r"\bown words?\b", "'the message of …'", "SQLite's own words"),
    avoid(r"\bwith nothing (printed|said)\b", "'and prints nothing'", "with nothing printed"),
    avoid(r"\b(without|with) a word\b", "'without a message'", "the server went without a word"),
    // Words for repairs.
    avoid(r"\bmend(s|ed|ing)?\b", "'fix'", "the command that mends it"),
    avoid(r"\blook(s|ed|ing)? after\b", "'maintain', 'handle'", "it is looked after"),
    avoid(r"\bput right\b", "'fix', 'correct'", "it can be put right"),
    // Words for checks.
    avoid(
        r"\b(to|would|must|will|can|may|could|should) be asked\b",
        "'is probed', 'is checked', 'is queried'",
        "the machine has to be asked",
    ),
    avoid(
        r"\bask(s|ed|ing)? (\S+ )?how (it|they|the \S+) (is|are)\b",
        "'probes', 'checks the status of'",
        "the hook asks it how it is",
    ),
    avoid(
        r"\b(machine|machines|it|them|they) (is|are|was|were) (not )?asked\b",
        "'is probed', 'is checked'",
        "the machines are asked",
    ),
    avoid(r"\b(has|have|had|not) (\S+ )?been asked\b", "'has been probed', 'checked'", "it had not been asked before"),
    avoid(r"\b(is|are|was|were) (not )?asked for\b", "'is requested', 'is required'", "it was not asked for"),
    avoid(r"\bnobody (has )?asked for\b", "'that was not requested'", "data that nobody asked for"),
    avoid(
        r"\bheld against\b",
        "'counts as a failure of'; of two things: 'is compared with'",
        "it is not held against it",
    ),
    avoid(
        r"\bhow (it|they|the machines|the build machines) (is|are)($|[.,;:)]| and\b| now\b)",
        "'its status'",
        "how the machines are, and",
    ),
    avoid(r"\b(is|are) (all )?in order\b", "'is valid', 'passes'", "the file is in order"),
    avoid(r"\b(is|are) (all )?well\b", "'passes'", "none of them is well"),
    avoid(r"\b(is|are) no answers?\b", "'is invalid'", "a result that is no answer"),
    avoid(r"\bmeans? nothing\b", "'is invalid'", "A value that means nothing"),
    avoid(r"\bmakes? no sense\b", "'is invalid'", "a record that makes no sense"),
    avoid(
        r"\b(go|goes|going|went) by (what|the|its|a)\b",
        "'uses', 'is based on', 'relies on'",
        "It goes by what is known.",
    ),
    avoid(r"\b(see|sees|saw) to it\b", "'ensures'", "the hook sees to it"),
    // Words for waiting, skipping and ending.
    avoid(r"\bnobody has\b", "'no one has', or an actor", "which is so when nobody has for 30 seconds"),
    avoid(r"\banother (one )?takes it\b", "'the hook retries on another machine'", "Another one takes it."),
    avoid(r"\bnobody waits\b", "'no build waits', 'builds skip it'", "and nobody waits for it"),
    avoid(r"\banswers? nobody\b", "'cannot be reached', 'does not respond'", "the daemon answers nobody"),
    avoid(r"\bpatience\b|\bpatient\b", "'timeout', 'limit'", "the patience of the hook"),
    avoid(r"\bleft alone\b|\bleaves? (it|them) alone\b", "'is skipped'", "it is left alone for 10 s"),
    avoid(r"\bpass(es|ed|ing)? over\b", "'skip', 'reject'", "why a machine is passed over"),
    avoid(r"\b(in|of|with) trouble\b", "'failing', 'failures'", "a machine in trouble"),
    avoid(r"\b(held|holds|hold) (\S+ )?up\b", "'block', 'delay'", "the daemon is held up"),
    avoid(r"\bwithout (an )?end\b|\bfor ever\b", "'indefinitely', 'without a limit'", "it waits without end"),
    avoid(r"\b(go|goes|going|went) on\b", "'continue'", "the builds there go on"),
    avoid(r"\bserves? on\b", "'stays in use'", "the old value serves on"),
    avoid(r"\b(come|comes|came|coming) to an end\b|\b(is|are) at an end\b", "'ends'", "it comes to an end"),
    avoid(
        r"\bno turn\b|\bin turns\b|\bturns? to (transfer|connect)\b",
        "'transfer slot'; of two things: 'alternately'",
        "no turn came",
    ),
    avoid(r"\bplaces? in line\b", "'place in the queue'", "keeps its place in line"),
    avoid(r"\bfor the time being\b", "'temporarily'", "it is refused for the time being"),
    avoid(r"\blets? (nobody|no one|somebody) in\b", "'refuses logins'", "the server lets nobody in"),
    avoid(r"\bcounts? (at once|for the next|from)\b", "'takes effect'", "a change counts at once"),
    avoid(
        r"\bnothing the (second|next) time\b",
        "'can be repeated'",
        "Nothing is changed the first, and nothing the second time.",
    ),
    // Words for places, paths and latency.
    avoid(r"\bover there\b", "'on the build machine', 'on the other side'", "the daemon over there"),
    avoid(r"\bthere (lies|stands|goes)\b", "'is', 'is in'", "there stands the file"),
    avoid(
        r"\bstands? (in|below|above|beside|behind|there|where|before|at|on)\b",
        "'is in', 'is below'",
        "it stands in the file",
    ),
    avoid(r"\blies? (in|below|above|beside|behind|on)\b", "'is in', 'is below'", "the state lies in /var/guix"),
    avoid(
        r"\b(on|for|of|over) (the|its|their) way\b",
        "'in transit', 'in flight'; of time: 'latency'",
        "what is on its way",
    ),
    avoid(r"\bin (the|their|its|your) way\b", "'conflicts with', 'exists already'", "a file is in the way"),
    avoid(
        r"\bthe way (to|into|there|over|back|of)\b",
        "'the connection to', 'the route', 'latency'",
        "the way to the machine",
    ),
    avoid(r"\blong way\b", "'high latency'", "it is a long way"),
    avoid(r"\bby way of\b", "'through', 'with'", "by way of a link"),
    avoid(r"\bin the place of\b|\btakes? the place of\b", "'instead of', 'replaces'", "it takes the place of the link"),
    avoid(r"\bleads? (back|there|elsewhere|anywhere|nowhere)\b", "'points to', 'refers to'", "the link leads there"),
    avoid(
        r"\bhand(s|ed|ing)? (\S+ ){0,4}?(on|over) to\b|\bhanded over\b",
        "'passes to', 'runs'",
        "hands every other command on to guix",
    ),
    avoid(
        r"\b(bring|brings|brought|come|comes|came) along\b|\bbrings? \S+( \S+)? along\b",
        "'includes'",
        "brings Lua 5.4 along",
    ),
    avoid(r"\b(bring|brings|brought) ((it|them) )?back\b", "'undrains', 'restores'", "until it is brought back"),
    // Connections that persist.
    avoid(r"\blends?\b|\blent\b|\blending\b", "'passes', 'gives to'", "a connection is lent"),
    avoid(r"\bkeepers?\b", "'owner'", "a keeper holds it"),
    avoid(
        r"\bkept connections?\b|\bconnections? (that|which) (was|were|is|are) kept\b",
        "'persistent connection'",
        "over a connection that was kept",
    ),
    // Single words.
    avoid(
        r"\b(all|everything|anything|nothing|none|alike|effect) but\b",
        "'except', 'apart from'",
        "everything but this",
    ),
    avoid(r"\bbut for\b", "'except', 'apart from'", "all of it, but for the last"),
    avoid(r"\banew\b", "'again', 'new'", "each build connects anew"),
    avoid(r"\bstocks?\b", "'known outputs'", "the stock of a machine"),
    avoid(r"\bas ever\b", "'as before'", "slots count as ever"),
    avoid(r"\blately\b", "'recently'", "builds that ran lately"),
    avoid(r"\bin the midst\b", "'during'", "in the midst of a call"),
    avoid(r"\b(is|are|was) dear\b", "'is expensive'", "a file is dear"),
    avoid(r"\bgood name\b", "'does not count as a failure of'", "costs its good name"),
    avoid(r"\bmaybe none\b", "'can be empty'", "a list, maybe none"),
];
