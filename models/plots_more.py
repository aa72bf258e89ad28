# SPDX-License-Identifier: MIT
"""The other five schemas: a promise, a riddle, a gift, a race, a rescue."""

import words as w


def promise(s):
    coins, days = 5 + s.rng.below(16), 2 + s.rng.below(9)
    s.env.update(coins=w.number(coins), days=w.number(days), who=s.rng.pick(
        ["merchant", "stranger", "traveller", "sailor", "rich man", "pedlar"]))
    s.start()
    s.t("{h.his} friend {f} had {o.new} and [loved it dearly|was very proud of it].")
    s.para()
    s.t(s.day() + ' {f} had to go away. "[Will you keep my {o}|Can you keep my {o} safe|Will you '
        'look after my {o}] until I come back?" asked {f}.',
        '"[Yes, I promise|I promise|You have my word]," said {h}, and {f} gave {h} {o.the} and '
        "went {q.to}.",
        "{h} [kept {o.the} safe|put {o.the} on a shelf] and [looked at it every day|let nobody "
        "touch it].")
    s.para()
    s.t("[Then|The next day|Soon] a {who} [came by|knocked on the door|came {p.to}] and saw "
        "{o.the}.",
        '"[I will give you|I will pay you|You shall have] {coins} coins for that {o}," said the '
        "{who}.",
        "{h} [was poor|needed the money|thought of all the things {h.he} could buy], but {h.he} "
        "shook {h.his} head.",
        '"[It is not mine to sell|It belongs to {f}, and I gave my word|A promise is a promise]," '
        "{h} [said|answered], and the {who} went away.")
    s.para()
    s.t("After {days} days {f} came back. {h} gave {f} {o.the} [at once|with a smile|and told {f} "
        "about the {who}].",
        '"[I knew that I could trust you|You are a true friend|Thank you for keeping your word], '
        '{h}," said {f}, and gave {h} {food}.',
        "[A kept promise is worth more than gold|And {h} was {glad}, for a friend is worth more "
        "than {coins} coins|{h} slept well that night, for {h.he} had kept {h.his} promise].")
    s.fact("Whose {o} was it?", "It was the {o} of {f}.", "{f}")
    s.fact("How many coins did the {who} offer?", "The {who} offered {coins} coins.", "{coins}")
    s.fact("After how many days did {f} come back?", "{f} came back after {days} days.", "{days}")
    s.fact("Where did {f} go?", "{f} went {q.to}.", "{q}")
    s.fact("Who wanted to buy {o.the}?", "A {who} wanted to buy it.", "{who}")
    s.colour()


def riddle(s):
    (question, answer), (_, wrong) = s.rng.some(w.RIDDLES, 2)
    s.env.update(riddle=question, answer=answer, wrong=wrong)
    s.start()
    s.para()
    s.t(s.day() + " {h} [walked|went|came] {q.to} and met {a.new} with {o.new}.",
        '"[What a beautiful|What a fine|What a lovely] {o}! [May I have it|Will you give it to '
        'me]?" asked {h}.',
        '"[You may have it if you can answer my riddle|First you must answer a riddle|Only if you '
        'guess my riddle]," said {a.the}. "{riddle}?"')
    s.para()
    s.t("{h} [thought and thought|thought for a while|scratched {h.his} head].",
        '"[Is it|Could it be] {wrong}?" {h.he} asked. "No," [laughed|said] {a.the}. "[Try again|'
        'Think again|Guess once more]."',
        "[{h} looked at the sky|{h} closed {h.his} eyes|{h} walked up and down]. [Then {h.he} "
        "smiled|Suddenly {h.he} laughed].",
        '"[I know it! It is|It must be|Now I know. It is] {answer}!" [cried|said] {h}.',
        '"[That is right|Right you are|You are clever], {h}," said {a.the}. "The {o} is yours."')
    s.para()
    s.t("{h} [thanked {a.the}|said thank you] and [carried|took] {o.the} home {p.to}.",
        "There {h.he} told {f} the riddle, [but {f} could not guess it|and {f} laughed for a long "
        "time|and {f} guessed it at once].",
        "[{h} was {glad}, for a good answer can be worth more than money|A quick mind is better "
        "than a full purse|And every time {h.he} looked at {o.the}, {h.he} thought of {a.the}].")
    s.fact("Who asked the riddle?", "{a.the} asked the riddle.", "{a}")
    s.fact("What was the answer to the riddle?", "The answer was {answer}.", "{answer}")
    s.fact("What did {h} guess first?", "First {h} guessed {wrong}.", "{wrong}")
    s.fact("What did {h} get?", "{h} got {o.full}.", "{o}")
    s.fact("Where did {h} meet {a.the}?", "{h} met {a.the} {q.at}.", "{q}")
    s.colour()


def gift(s):
    one, two = 1 + s.rng.below(10), 1 + s.rng.below(10)
    s.env.update(one=w.number(one), two=w.number(two), all=w.number(one + two),
                 c1="coin" if one == 1 else "coins", c2="coin" if two == 1 else "coins",
                 who=s.rng.pick(["miller", "baker", "farmer", "gardener", "shepherd", "fisherman"]))
    s.start()
    s.t("{h.his} best friend was called {f}.")
    s.para()
    s.t('[It was|Soon it would be] the birthday of {f}. "[I want to give {f}|{f} has always wanted]'
        ' {o.a}," {h} [thought|said], "but I have no money."',
        "[So {h.he} went {q.to} to work for a {who}|So {h.he} asked a {who} {q.at} for work].",
        "On the first day {h} [earned|got] {one} {c1}, and on the second day {h.he} [earned|got] "
        "{two} {c2}.",
        "{one} plus {two} is {all}, so now {h.he} had {all} coins.")
    s.para()
    s.t("[Then|The next {time}|With the money] {h} went {r.to}, where a [trader|peddler] sold "
        "[many things|all kinds of things|old things].",
        "[There {h.he} saw {o.new}|There lay {o.new}|Among them was {o.new}]. It cost {all} coins.",
        '"[I will take it|That is just what I need|This is the one]," said {h}, and {h.he} paid '
        "{all} coins for {o.the}.")
    s.para()
    s.t('"[Happy birthday|This is for you|I have something for you], {f}," said {h} and gave {f} '
        "{o.the}.",
        '"[Just what I wanted|What a beautiful {o}|Thank you, {h}]!" [cried {f}|said {f}] and '
        "[hugged {h}|danced for joy|was very {glad}].",
        "They [ate|shared] {food} and {h} was {glad} too, [for giving is better than "
        "getting|because the best gifts are earned|and forgot how hard the work had been].")
    s.fact("How many coins did {h} earn in all?", "{h} earned {all} coins in all.", "{all}")
    s.fact("Who did {h} work for?", "{h} worked for a {who}.", "{who}")
    s.fact("Whose birthday was it?", "It was the birthday of {f}.", "{f}")
    s.fact("What did {h} buy?", "{h} bought {o.full}.", "{o}")
    s.fact("Where did {h} buy {o.the}?", "{h} bought it {r.at}.", "{r}")
    s.colour()


def race(s):
    s.start()
    s.t("[Not far away|In the same place|Next door] lived {a.new} [that thought it was the fastest "
        "of all|that was very proud of its quick legs|that liked to boast].")
    s.para()
    s.t('"[Nobody can beat me|I am faster than you|I bet that I can run faster than you], {h}," '
        'said {a.the} [one day|one {weather} {time}]. "[Let us see|We will see about that|Then let '
        'us race]," said {h}.',
        'Their friend {f} took {o.new} {r.to} as the prize and came back. "[Run from here '
        '{r.to}|The race goes {r.to}]. Whoever [gets there|comes there] first shall have {o.the}!"',
        "\"[One, two, three, go|Ready, steady, go]!\" [cried|called] {f}, and off they ran.")
    s.para()
    if s.rng.percent(50):
        s.t('{a.the} was soon far ahead. "[I have plenty of time|There is no hurry]," it thought, '
            "and [lay down to sleep|stopped to eat {food}|sat down for a rest] {q.at}.",
            "{h} [did not stop|went on and on, step by step|kept running] [and passed {a.the}|and "
            "ran past {a.the}].",
            "When {a.the} [looked up|saw it], it was too late. {h} [was already|stood] {r.at} with "
            "{o.the} in {h.his} hand.",
            "[Slow and steady wins the race|{h} had won, for the one who boasts is often the last|"
            '"Next time I will not stop," said {a.the}, and it never boasted again].')
        s.fact("Who won the race?", "{h} won the race.", "{h}")
        s.fact("Where did {a.the} stop?", "{a.the} stopped {q.at}.", "{q}")
    else:
        s.t("{h} was ahead at first, but {q.at} {h.he} [saw an old woman who had fallen|saw an old "
            "man with a heavy sack] and stopped to help.",
            "So {a.the} came {r.to} first and won {o.the}.",
            '"[Why were you so slow|What kept you so long]?" asked {a.the}, and {h} told it [why '
            "{h.he} had stopped|everything].",
            '{a.the} was quiet for a moment. "[Then you are the better one|A good heart is better '
            'than quick legs]," it said, and it gave {h} {o.the}.',
            "[From then on they always ran together|Since that day the two have been good "
            "friends].")
        s.fact("Who won the race?", "{a.the} won the race.", "{a}")
        s.fact("Where did {h} stop to help?", "{h} stopped {q.at}.", "{q}")
    s.fact("What was the prize?", "The prize was {o.new}.", "{o}")
    s.fact("Where did the race end?", "The race ended {r.at}.", "{r}")
    s.fact("Who had {o.the} in the end?", "{h} had {o.the} in the end.", "{h}")
    s.colour()


def rescue(s):
    s.env.update(trap=s.rng.pick(["a deep hole", "the mud", "a net", "a thorn bush", "an old trap",
                                  "a ditch", "a hollow tree"]),
                 tool=s.rng.pick(["a rope", "a ladder", "a long stick", "a strong pole"]))
    s.start()
    s.para()
    s.t(s.day() + " {h} was on the way {q.to} when {h.he} heard a [cry|small voice|faint voice].",
        '"[Help me|Help|Please help me]! I am stuck!" [It was {a.new}|There was {a.new}] in '
        '{trap}.',
        "{h} pulled [with all {h.his} strength|as hard as {h.he} could], but {h.he} [was not "
        "strong enough|could not get {a.the} out].",
        '"[Wait here|Do not give up|Be brave]," said {h}. "[I will get help|I will fetch a '
        'friend]."')
    s.para()
    s.t("{h} ran {r.to}, where {f} [was working|was sitting|lived], and [told {f} everything|"
        "asked for help].",
        "{f} [took|brought] {tool}, and [they ran back {q.to}|both of them hurried back {q.to}].",
        '"[One, two, three, pull|Hold on tight|Now, all together]!" [said|cried] {f}.',
        "[Slowly|At last|Little by little] {a.the} came free. It was [tired but unhurt|cold "
        "and dirty, but safe|weak, but it could walk].",
        '"[I will never forget this|Thank you, my friends|How can I ever thank you]," said '
        '{a.the}.')
    s.para()
    s.t("The next [morning|day] {h} opened the door of {h.his} house {p.at}. There stood {a.the} "
        "with {o.new}.",
        '"[I found this long ago|This was my treasure|I have kept this for years]," it said. "[It '
        'is for you|Now it is yours|Please take it]."',
        "{h} [was {glad}|smiled] and put {o.the} [by the window|on the table|over the fire].",
        "[Those who help are never without friends|A good deed always comes back|And whenever "
        "{h.he} saw {o.the}, {h.he} thought of {a.the}].")
    s.fact("Who was stuck?", "{a.the} was stuck.", "{a}")
    s.fact("Where was {a.the} stuck?", "{a.the} was stuck in {trap}.", "{trap}")
    s.fact("Who did {h} ask for help?", "{h} asked {f} for help.", "{f}")
    s.fact("What did {f} bring?", "{f} brought {tool}.", "{tool}")
    s.fact("What did {a.the} give to {h}?", "{a.the} gave {h} {o.full}.", "{o}")
    s.colour()
