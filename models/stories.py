# SPDX-License-Identifier: MIT
"""The text of the demo model: python3 models/stories.py --seed S --n N

Small English stories and small tasks, made by this program alone, so that the text belongs to
nobody and comes out the same, bit for bit, from a seed. Two splits: `heldout` holds the pairs of
schema and hero, and the sums, that `train` never shows. Two forms: plain text and ChatML turns.
"""

import argparse
import re
import zlib

import more_words as more
import words as w
from plots import journey, lost, quarrel, storm, trade
from plots_more import gift, promise, race, rescue, riddle
from tale import Tale

PLOTS = (lost, quarrel, journey, trade, storm, promise, riddle, gift, race, rescue)
ABOUT = {
    "lost": "something lost and found", "quarrel": "a quarrel", "journey": "a journey",
    "trade": "a trade", "storm": "a storm", "promise": "a promise", "riddle": "a riddle",
    "gift": "a gift", "race": "a race", "rescue": "a rescue"}
END = "<|endoftext|>"


def kept_back(*parts):
    """One in ten of these belongs to the held-out split."""
    return zlib.crc32(":".join(map(str, parts)).encode()) % 10 == 0


def coined(rng):
    """A word of one to three random syllables that nobody has seen before."""
    return "".join(rng.pick(more.ONSET) + rng.pick(more.VOWEL) + rng.pick(more.CODA)
                   for _ in range(1 + rng.below(3)))


def strange(rng, pool, unseen, split):
    """A word that only a request brings up: from a list or coined; unseen ones if held out."""
    if split == "heldout":
        return rng.pick(unseen)
    return coined(rng) if rng.percent(30) else rng.pick(pool)


def tale(rng, split, odd=False):
    """One story; `odd` ones use a name, an object and an animal from outside the story world."""
    noun = animal = None
    while True:
        girl = rng.percent(50)
        name = rng.pick(w.GIRLS if girl else w.BOYS)
        plot = rng.pick(PLOTS)
        if kept_back(plot.__name__, name) == (split == "heldout"):
            break
    if odd:
        new, side = more.UNSEEN, "girls" if girl else "boys"
        name = strange(rng, more.GIRLS if girl else more.BOYS, new[side], split)
        name = name[0].upper() + name[1:]
        if rng.percent(60):
            noun = strange(rng, more.OBJECTS, new["objects"], split)
        if rng.percent(40):
            animal = strange(rng, more.ANIMALS, new["animals"], split)
    friend = w.Person(rng.pick(w.BOYS if girl else w.GIRLS), not girl, rng.percent(15))
    s = Tale(rng, w.Person(name, girl, rng.percent(15)), friend, noun, animal)
    s.odd, s.odd_animal = odd, animal is not None
    plot(s)
    s.plot = plot.__name__
    return s


def request(rng, s):
    """(what a user says, nouns that the story must hold) for a story that is already told."""
    text, must = s.text(), [s.h.name, s.o.noun]

    def told(word):
        return re.search(rf"\b{word}\b", text) is not None

    who = rng.pick([f"a {s.h.kind} called {s.h}", f"a {s.h.kind} named {s.h}", s.h.name])
    extra = []
    if s.a.noun in text and (s.odd_animal or rng.percent(30)) and told(s.a.noun):
        extra.append(s.a.a)
        must.append(s.a.noun)
    if rng.percent(20):
        extra.append(s.o.new)
    else:
        extra.append(s.o.a)
    if s.f.name in text and rng.percent(15):
        extra.insert(0, s.f.name)
        must.append(s.f.name)
    things = ", ".join([who, *extra[:-1]]) + " and " + extra[-1]
    ask = rng.pick(["Tell me a story", "Tell me a story", "Tell me a short story",
                    "Please tell me a story", "Write a story", "Write a short story",
                    "I would like to hear a story", "Can you tell me a story", "Tell me about"])
    if ask == "Tell me about":
        return f"{ask} {things}.", must
    if not s.odd and not extra[:-1] and rng.percent(15):
        if rng.percent(50):
            return f"{ask} about {who}.", must[:1]
        return f"{ask} about {extra[0]}.", must[1:]
    mark = "?" if ask.startswith("Can") else "."
    if rng.percent(8):
        ask, mark = ask[0].lower() + ask[1:], rng.pick(["", mark])
    if rng.percent(12):
        return f"{ask} about {ABOUT[s.plot]}, with {things}{mark}", must
    return f"{ask} about {things}{mark}", must


def cap(text):
    return text[0].upper() + text[1:]


def sum_of(rng, split):
    """(question, answer, key, is it a minus) for one sum."""
    minus = rng.percent(40)
    while True:
        a, b = rng.below(21), rng.below(21)
        if minus and a < b:
            a, b = b, a
        sign = "minus" if minus else "plus"
        if kept_back(sign, a, b) == (split == "heldout"):
            break
    x, y, z = w.number(a), w.number(b), w.number(a - b if minus else a + b)
    ask = rng.pick([f"What is {x} {sign} {y}?", f"What is {x} {sign} {y}?",
                    f"How much is {x} {sign} {y}?",
                    f"Take {y} away from {x}." if minus else f"Add {x} and {y}.",
                    f"{cap(x)} {sign} {y}?"])
    return ask, f"{cap(x)} {sign} {y} is {z}.", z


def count(rng, _split):
    a = rng.below(21)
    b = a + 2 + rng.below(8)
    line = [w.number(n) for n in range(a, b + 1)]
    if rng.percent(35):
        line.reverse()
        return f"Count down from {line[0]} to {line[-1]}.", cap(", ".join(line)) + ".", line[-1]
    ask = rng.pick(["Count", "Please count"])
    return f"{ask} from {line[0]} to {line[-1]}.", cap(", ".join(line)) + ".", line[-1]


def alphabet(rng, _split):
    some = rng.some(rng.pick([w.ANIMALS, w.OBJECTS]), 3 + rng.below(3))
    ask = rng.pick(["Put these words in alphabetical order", "Sort these words"])
    answer = cap(", ".join(sorted(some))) + "."
    return f"{ask}: {', '.join(some)}.", answer, answer[:-1].lower()


def opposite(rng, _split):
    pair = rng.some(rng.pick(w.OPPOSITES), 2)
    ask = rng.pick(["What is the opposite of {}?", "Tell me the opposite of {}."])
    return ask.format(pair[0]), f"The opposite of {pair[0]} is {pair[1]}.", pair[1]


def talk(rng, _split):
    ask, answer = rng.pick([
        ("Hello!", "Hello! Shall I tell you a story?"),
        ("Hi", "Hello! Shall I tell you a story?"),
        ("Good morning!", "Good morning! Shall I tell you a story?"),
        ("How are you?", "I am well, thank you. Shall I tell you a story?"),
        ("Who are you?", "I am a very small model. I tell stories, and I can add small numbers."),
        ("What can you do?", "I can tell stories, answer questions about them, count, do small "
                             "sums and sort words."),
        ("Thank you!", "You are welcome!"), ("Thanks.", "You are welcome!"),
        ("Goodbye!", "Goodbye! Come back soon for another story.")])
    return ask, answer, answer.lower()


def unknown(rng, _split):
    """A question from outside the story world, which the model should turn down."""
    subject = coined(rng) if rng.percent(20) else rng.pick(more.FAR)
    return rng.pick(more.ODD).format(subject), more.SORRY, more.SORRY.lower()


TASKS = (sum_of,) * 6 + (count, alphabet, opposite)


def chat_turns(rng, split):
    """One chat as [(user, assistant, what the answer must hold)], of one to four turns."""
    if rng.percent(38):
        return [rng.pick(TASKS + (talk, unknown))(rng, split) for _ in range(1 + rng.below(4))]
    odd = rng.percent(35) and split == "train"
    s = tale(rng, split, odd)
    ask, must = request(rng, s)
    if not odd and rng.percent(6):
        ask = rng.pick(["Tell me a story.", "Please tell me a story!", "Tell me a short story.",
                        "tell me a story", "Another story, please."])
        must = []
    turns = [(ask, s.text(), must)]
    turns += rng.some(s.facts, rng.below(4))
    if rng.percent(10):
        turns.append(("Thank you!", "You are welcome!", "welcome"))
    return turns


def chatml(turns):
    return "".join(f"<|im_start|>user\n{t[0]}<|im_end|>\n<|im_start|>assistant\n{t[1]}<|im_end|>\n"
                   for t in turns)


def plain(rng, split):
    if rng.percent(25):
        lines = [rng.pick(TASKS)(rng, split) for _ in range(2 + rng.below(5))]
        if rng.percent(50):
            return "\n".join(t[1] for t in lines) + "\n"
        return "\n".join(f"{t[0]} {t[1]}" for t in lines) + "\n"
    s = tale(rng, split)
    text = s.text() + "\n"
    for ask, answer, _ in rng.some(s.facts, rng.pick([0, 0, 1, 2])):
        text += f"\n{ask} {answer}"
    return text


def document(rng, split="train", form=None):
    """One document without its end mark."""
    if form is None:
        form = "chat" if rng.percent(65) else "plain"
    return chatml(chat_turns(rng, split)) if form == "chat" else plain(rng, split)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--n", type=int, default=5)
    ap.add_argument("--split", choices=("train", "heldout"), default="train")
    ap.add_argument("--form", choices=("plain", "chat"))
    args = ap.parse_args()
    rng = w.Rng(args.seed)
    for _ in range(args.n):
        print(document(rng, args.split, args.form) + END)


if __name__ == "__main__":
    main()
