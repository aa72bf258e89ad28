# SPDX-License-Identifier: MIT
"""Five of the ten story schemas: lost and found, a quarrel, a journey, a trade, a storm."""

import words as w


def lost(s):
    s.start()
    s.own()
    s.para()
    s.t(s.day() + " {h} took {o.the} {q.to} and [stayed there for a long time|played there until "
        "it was late|sat there for a while].",
        "[On the way home|When it was time to go home|Back at home] {h.he} [saw|noticed] that "
        "{o.the} was gone.",
        '"[Oh no|Oh dear]! [I have lost my {o}|My {o} is gone|Where is my {o}]!" [cried|said] {h}.',
        "{h.he} [felt very {sad}|was so {sad} that {h.he} sat down and cried|was {sad}].",
        "{h.he} looked {hiding}, but [it|{o.the}] was not there.")
    s.para()
    s.t("[Then|After a while|A little later] {a.new} came along.",
        '"Why are you so {sad}?" asked {a.the}.',
        '"I have lost my {o}," {h} [said|answered]. "It is {o.colour}."',
        '[{a.the} thought for a moment.|{a.the} nodded.] "I [saw|have seen] something {o.colour} '
        '{r.at}," it said. "[Come with me|Follow me], {h}."',
        "[They walked {r.to} together|So {h} followed {a.the} {r.to}|Together they hurried "
        "{r.to}].")
    place = s.rng.pick([x for x in w.HIDING if x != s.env["hiding"]])
    s.t("[And there|There], " + place + ", [lay|was] {o.the}!",
        "{h} [picked it up and laughed|was very {glad}|held it tight and was {glad}].",
        '"Thank you, {a}!" said {h}, and {h.he} gave {a.the} {food}.')
    s.para()
    s.t("[From that day on|After that day|From then on], {h} [never let go of {o.the}|took good "
        "care of {o.the}|held {o.the} tight] [when {h.he} went {q.to}|on every walk].")
    s.fact("What did {h} lose?", "{h} lost {o.full}.", "{o}")
    s.fact("Where was {o.the}?", "{o.the} was {r.at}.", "{r}")
    s.fact("Who helped {h}?", "{a.the} helped {h}.", "{a}")
    s.fact("What did {h} give to {a.the}?", "{h} gave {a.the} {food}.", "{food}")


def quarrel(s):
    s.start()
    first, second = (s.h, s.f) if s.rng.percent(50) else (s.f, s.h)
    s.env.update(x=first, y=second, tool=s.rng.pick(w.TOOLS))
    s.t("{h.his} best friend was [a {f.kind} called {f}|{f}, who lived {q.at}].")
    s.para()
    s.t(s.day() + " the two friends found {o.new} {r.at}.",
        '"[It is mine|I saw it first]!" said {x}. "No, [it is mine|I saw it first|I want it]!" '
        "said {y}.",
        "[{x} pulled and {y} pulled|They both pulled at {o.the}|They pulled and shouted], until "
        "{o.the} [broke in two|fell down and broke|broke].",
        '"[Look what you have done|It is all your fault|Now it is broken]!" cried {y}.',
        "[They went home without a word|They both went home, and neither of them said a word|Both "
        "went home angry].")
    s.para()
    s.t("[That night|In the evening] {x} [could not sleep|lay awake and thought of {y}|felt "
        "{sad}].",
        '"[A friend is worth more than {o.a}|I miss my friend|I was wrong]," {x.he} thought.',
        "The next [day|morning] {x} [went to see {y}|walked to the house of {y}] and brought "
        "{food}.",
        '"[I am sorry|I am sorry that I shouted|Please forgive me], {y}," said {x}. "[I am sorry '
        'too|And I am sorry too]," said {y}.',
        "[Together|Side by side] they mended {o.the} with {tool}.")
    s.para()
    s.t("[From then on|After that], {x} had {o.the} in the morning and {y} had it in the evening"
        "[, and they never fought about it again|, and they were the best of "
        "friends again|].")
    s.fact("What did {h} and {f} find?", "They found {o.full}.", "{o}")
    s.fact("Where did they find {o.the}?", "They found it {r.at}.", "{r}")
    s.fact("Who said sorry first?", "{x} said sorry first.", "{x}")
    s.fact("What did they mend {o.the} with?", "They mended it with {tool}.", "{tool}")
    s.fact("Who had {o.the} in the evening?", "{y} had it in the evening.", "{y}")
    s.colour()


def journey(s):
    s.start()
    s.t(s.day() + ' a letter came from {h.his} {kin}, who lived {r.at}. "[Please bring me|I need|'
        'I would like to have] {o.new}," it said.',
        "[So {h} put {o.a} in a bag and set out|{h} packed {o.the} and set out at once|{h} took "
        "{o.the} and [went on {h.his} way|began to walk]].")
    s.para()
    trouble, help_ = s.rng.pick([
        ("the path ended at deep water", "carried {h} across on its back"),
        ("it grew dark and {h} lost the way", "showed {h} the right path"),
        ("a tree lay across the road", "showed {h} a way around it"),
        ("the path grew steep and {h} grew tired", "carried the bag for {h}"),
        ("a thick fog came down", "walked ahead and called out to {h}")])
    s.t("[The way was long|It was a long way], and {q.at} " + trouble + ".",
        '"[What shall I do now|How can I go on]?" said {h}.',
        "[Just then|At that moment] {a.new} came by.",
        '"[Share your food with me, and I will help you|I am hungry. Give me something to eat, and '
        'I will help you]," said {a.the}.',
        "{h} [had only {food}, but {h.he} gave it away gladly|gave {a.the} {food}], and {a.the} "
        + help_ + ".")
    s.para()
    s.t("[At last|At the end of the day|When the sun was low] {h} came {r.to} and knocked on the "
        "door.",
        '"[Here is your {o}|I have brought {o.the}]," said {h}. "[Thank you, my dear|How {trait} '
        'you are]!" said {h.his} {kin}.',
        "[They sat by the fire|They drank tea by the fire|They sat down to eat], and {h} told "
        "{h.his} {kin} about {a.the} [that had helped on the way|and the long road].",
        "[The way home seemed much shorter|{h} was {glad}, for a good deed makes a long road short|"
        "Whoever shares is never alone on the road].")
    s.fact("What did {h} bring to {h.his} {kin}?", "{h} brought {o.full}.", "{o}")
    s.fact("Where did {h.his} {kin} live?", "{h.his} {kin} lived {r.at}.", "{r}")
    s.fact("Who helped {h} on the way?", "{a.the} helped {h}.", "{a}")
    s.fact("What did {h} give to {a.the}?", "{h} gave {a.the} {food}.", "{food}")


def trade(s):
    s.env.update(m=w.Thing(s.other, s.colour2), who=s.rng.pick(
        ["miller", "baker", "farmer", "sailor", "shepherd", "tailor", "smith"]))
    s.start()
    s.t("{h.he} wanted {o.a} more than anything, but all {h.he} had was {food}.")
    s.para()
    s.t(s.day() + " {h} went {q.to} and met {f}.",
        '"[I am so hungry|I have not eaten all day]," said {f}. "[Will you give me|May I have] '
        '{food}? I will give you {m.new} for it."',
        '"[Gladly|With pleasure|That is a fair trade]," said {h}.',
        "So {f} got {food} and {h} got {m.the}.")
    s.para()
    s.t("Then {h} walked on {r.to}, where [a|an old] {who} sat [on a bench|in the shade|by the "
        "road] with {o.new}.",
        '"[What a fine|What a good] {m}!" said the {who}. "[I have looked for one like that for '
        'years|I need one like that]. Will you [trade it|give it to me] for my {o}?"',
        '"[Yes, with joy|Yes, gladly|Of course]!" said {h}, and they [traded|shook hands].',
        "Now the {who} had {m.the} and {h} had {o.the}.")
    s.para()
    s.t("{h} went home {p.to} [and was {glad}|with a light heart|with {o.the} under {h.his} arm].",
        "[Everyone had what they needed, and nobody had paid a coin|A fair trade makes two people "
        "happy|Nobody had lost anything, and everybody was content].")
    s.fact("What did {h} have at first?", "At first {h} had {food}.", "{food}")
    s.fact("What did {f} give to {h}?", "{f} gave {h} {m.full}.", "{m}")
    s.fact("Who had {o.the} before {h}?", "The {who} had {o.the}.", "{who}")
    s.fact("What did the {who} get?", "The {who} got {m.the}.", "{m}")
    s.fact("Where did {h} meet {f}?", "{h} met {f} {q.at}.", "{q}")
    s.colour()


def storm(s):
    s.start()
    s.own()
    s.env.update(part=s.rng.pick(["roof", "door", "fence", "gate", "chimney", "window"]))
    s.para()
    s.t("[One day|One {time}] {h} was {q.at} with {o.the} when the sky [turned black|grew dark].",
        "[A great storm|A wild storm|A storm] came up. The wind [howled|roared|blew hard], and the "
        "rain [fell like stones|came down in sheets|beat on the ground].",
        "{h} [ran|hurried] {r.to} [to hide|to find shelter|and waited there].",
        "There sat {a.new}, [wet and cold|shaking with fear|trembling and wet].",
        '"[Do not be afraid|You are safe with me|Come here to me]," said {h}, and {h.he} [put '
        "{h.his} coat around {a.the}|dried {a.the} with {h.his} coat].",
        "[To pass the time|While the thunder rolled], {h.he} showed {a.the} {o.the} and told it "
        "[a long story|a funny story|an old tale].")
    s.para()
    s.t("[In the morning|At last] the storm was over. [The sun came out|The sky was blue again].",
        "{h} and {a.the} walked {p.to} and saw that the wind had broken the {part} of "
        "{f}'s house.",
        '"[What shall I do|I cannot mend it alone]," [said|sighed] {f}. "[We will help you|Many '
        'hands make light work]," said {h}.',
        "They worked all day, {h} with a hammer, {f} with a saw, and {a.the} [sat and watched|"
        "sang for them].",
        "[By evening|When the stars came out] the {part} was [as good as new|whole again].")
    s.para()
    s.t("[After a storm, it is good to have friends|The storm had broken "
        "a {part}, but it had brought a new friend|Since that night {a.the} has lived with {h}].")
    s.fact("Where did {h} hide from the storm?", "{h} hid {r.at}.", "{r}")
    s.fact("Who was {r.at}?", "{a.the} was there.", "{a}")
    s.fact("What did the storm break?", "It broke the {part} of {f}'s house.", "{part}")
    s.fact("Whose house was broken?", "It was the house of {f}.", "{f}")
    s.fact("What did {h} show to {a.the}?", "{h} showed it {o.the}.", "{o}")
