# SPDX-License-Identifier: MIT
"""The words of the story world, and a random source that is the same on every machine.

Python's own `random` may change its sequences between versions; the few lines here will not, so
a seed names one text for good.
"""

import math

GIRLS = ("Mira Anna Lily Nora Ella Ruth Clara Ida Hana Zara Rosa Vera Tilda Maya Lena Olga Petra "
         "Sofia Wanda Yara").split()
BOYS = ("Tom Ben Omar Finn Hugo Jack Karl Leo Max Nico Otto Paul Ravi Sam Theo Ivan Emil Bruno "
        "Dan Felix").split()
ANIMALS = ("fox hen goat horse cat dog owl crow hare mouse bear deer duck goose frog otter "
           "badger donkey sheep cow squirrel hedgehog robin swan turtle beaver wolf magpie mole "
           "pony").split()
OBJECTS = ("lantern key drum kite book map bell ring coin cup basket rope hat scarf spoon mirror "
           "candle flute whistle ball doll box bag blanket button brush compass crown feather "
           "fiddle glove hammer hook jar jug kettle letter mask medal mitten needle necklace "
           "notebook pan pearl pencil pot purse puppet shell shovel spade stone telescope teapot "
           "torch trumpet umbrella violin watch wheel apron bowl boat bottle bracelet bucket cap "
           "clock coat comb cushion dice fan flag flower harp helmet horn lamp pillow plate quilt "
           "ribbon shield sword vase wand").split()
def _places(text):
    """Pairs (preposition, noun) from "by: river lake; in: forest"."""
    groups = (g.split(": ") for g in text.split("; "))
    return [(prep, noun) for prep, nouns in groups for noun in nouns.split()]


# Homes, places outdoors and places with people: a story has one of each, never the same twice.
HOMES = _places("by: river lake sea pond; in: village town valley castle tower; at: mill farm "
                "harbour inn; on: hill island cliff square")
OUTDOORS = _places("in: forest meadow garden orchard cave field marsh park; by: waterfall well "
                   "bridge lighthouse; on: beach mountain; at: crossroads")
INDOORS = _places("at: market bakery station school library smithy museum theatre palace; in: "
                  "workshop stable barn kitchen chapel tavern")
COLOURS = "red blue green yellow white black brown silver golden grey purple orange".split()
FOODS = ("a piece of bread|a slice of cake|a ripe apple|a bowl of soup|a handful of nuts|"
         "a sweet pear|a piece of cheese|a jar of honey|a warm pie|a bag of cherries").split("|")
KIN = "grandmother grandfather aunt uncle mother father cousin".split()
SAD = "sad worried unhappy troubled gloomy upset".split()
GLAD = "happy glad proud thankful merry cheerful".split()
TRAITS = "kind brave clever quiet curious gentle patient honest busy careful".split()
AIR = {
    "sunny": "the sun shone on the roofs|not a cloud was in the sky",
    "rainy": "the rain fell softly on the roofs|there were puddles everywhere",
    "windy": "the wind shook the trees|the leaves danced in the wind",
    "cloudy": "grey clouds hung over the houses|the clouds hung low",
    "foggy": "nobody could see the road|the trees looked like ghosts",
    "cold": "everyone wore a thick coat|smoke rose from every house",
    "warm": "the bees hummed in the flowers|the air smelled of flowers",
    "bright": "the birds sang in the trees|everything seemed to shine",
    "frosty": "the grass was white with frost|there was ice on the water",
    "misty": "a thin mist lay over the fields|everything was grey and quiet"}
WEATHER = list(AIR)
TIMES = "morning afternoon evening".split()
HIDING = ("under a bush|behind a big stone|in the tall grass|under an old tree|beside the path|"
          "between two rocks|under a pile of leaves|behind a fence").split("|")
TOOLS = "glue|string|a piece of wire|a strip of cloth|wax|a bit of leather".split("|")
OPPOSITES = [p.split("/") for p in (
    "big/small hot/cold day/night black/white happy/sad fast/slow up/down old/young open/closed "
    "full/empty hard/soft light/dark wet/dry high/low long/short near/far rich/poor strong/weak "
    "early/late clean/dirty good/bad left/right loud/quiet thick/thin wide/narrow sweet/sour "
    "true/false first/last begin/end push/pull give/take buy/sell win/lose awake/asleep "
    "brave/afraid heavy/light summer/winter north/south east/west inside/outside above/below "
    "sharp/blunt smooth/rough deep/shallow").split()]
RIDDLES = [r.split("|") for r in (
    "What has hands but cannot clap|a clock", "What has teeth but cannot bite|a comb",
    "What has a neck but no head|a bottle", "What gets wetter the more it dries|a towel",
    "What has one eye but cannot see|a needle", "What has keys but opens no door|a piano",
    "What runs but has no legs|a river", "What can you catch but never throw|a cold",
    "What goes up and never comes down|smoke", "What has legs but cannot walk|a table",
    "What follows you all day and leaves at night|a shadow",
    "What has many leaves but is not a tree|a book",
    "What is full of holes but holds water|a sponge",
    "What has a bed but never sleeps|a stream", "What falls but is never hurt|the rain",
    "What speaks every language when you call it|an echo")]
ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen").split()


def number(n):
    """A number from 0 to 99 in words."""
    if n < 20:
        return ONES[n]
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()[n // 10 - 2]
    return tens if n % 10 == 0 else f"{tens}-{ONES[n % 10]}"


def an(phrase):
    return ("an " if phrase[0] in "aeiou" or phrase == "honest" else "a ") + phrase


class Rng:
    """SplitMix64. `nats` adds up what the choices were worth: a bound on the text's entropy."""

    def __init__(self, seed):
        self.state = seed & 0xFFFFFFFFFFFFFFFF
        self.nats = 0.0

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        self.nats += math.log(n)
        return ((z ^ (z >> 31)) >> 11) % n

    def pick(self, items):
        return items[self.below(len(items))]

    def percent(self, p):
        before = self.nats
        yes = self.below(100) < p
        share = (p if yes else 100 - p) / 100
        self.nats = before - math.log(share)
        return yes

    def some(self, items, n):
        """`n` different items in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(n)]


class Person:
    def __init__(self, name, girl, grown):
        self.name = name
        self.girl = girl
        self.kind = ("woman" if girl else "man") if grown else ("girl" if girl else "boy")
        self.he, self.him, self.his = ("she", "her", "her") if girl else ("he", "him", "his")
        self.self = "herself" if girl else "himself"

    def __str__(self):
        return self.name


class Thing:
    def __init__(self, noun, colour):
        self.noun, self.colour = noun, colour
        self.a, self.the = an(noun), "the " + noun
        self.new, self.full = an(f"{colour} {noun}"), f"the {colour} {noun}"

    def __str__(self):
        return self.noun


class Place:
    def __init__(self, prep, noun):
        self.noun, self.the = noun, "the " + noun
        self.at, self.to = f"{prep} the {noun}", f"to the {noun}"

    def __str__(self):
        return self.noun


class Animal:
    def __init__(self, noun, trait):
        self.noun, self.the = noun, "the " + noun
        self.a, self.new = an(noun), an(f"{trait} {noun}")

    def __str__(self):
        return self.noun
