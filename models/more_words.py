# SPDX-License-Identifier: MIT
"""Names and things that only a request brings up, so that the model learns to copy what it is told.

The story world of words.py is closed. Users are not bound to it: some training requests therefore
name a hero or an object from the lists here, or one that is made up of random syllables. The words
under UNSEEN are never used in training and serve to judge how well copying works.
"""

GIRLS = ("Agnes Alice Amelia Amina Aurora Beatrice Bella Bridget Camille Carmen Charlotte Chloe "
         "Daisy Daphne Diana Edith Elena Eleanor Emily Emma Esther Eva Fatima Fiona Flora Frida "
         "Gemma Grace Greta Hazel Helen Holly Imani Ingrid Iris Isabel Ivy Jasmine Jane Joan "
         "Julia June Kate Keiko Laura Layla Leah Linda Louise Lucy Luna Mabel Margaret Maria "
         "Marta Mary Matilda Mei Nadia Naomi Nina Noor Octavia Olivia Pearl Phoebe Polly "
         "Queenie Rachel Rebecca Rita Robin Sally Sarah Selma Sienna Stella Susan Sylvia Tara "
         "Thea Trudy Uma Ursula Valerie Victoria Viola Violet Wendy Willow Xenia Yasmin Yuki "
         "Zelda").split()
BOYS = ("Aaron Abel Adam Adrian Ahmed Alan Albert Alex Alfred Ali Andrew Anton Arthur Axel "
        "Basil Bernard Boris Caleb Carlos Casper Charles Chris Colin Cyril Daniel David Dennis "
        "Diego Dmitri Edgar Edward Eli Eric Ernest Ethan Eugene Francis Frank Fred Gabriel "
        "George Gilbert Giles Gus Hassan Harry Hector Henry Igor Isaac Jacob James Jamal Jasper "
        "Jerome Joel John Jonas Joseph Julian Kenji Kevin Kurt Lars Liam Louis Lucas Luke "
        "Magnus Malik Marco Mark Martin Mateo Matthew Milo Nathan Neil Noah Oliver Oscar Owen "
        "Pablo Patrick Peter Philip Pierre Quentin Ralph Raymond Rex Robert Roger Rufus Simon "
        "Stefan Steven Thomas Tim Tobias Ulrich Uriel Victor Vincent Walter Will Xavier Yusuf "
        "Zack").split()
OBJECTS = ("amulet anchor arrow axe badge banana bandage banner barrel beanbag bicycle biscuit "
           "blackboard bone boomerang bouquet bow brick bubble bun cactus cage camera candy "
           "cane card carpet carrot cart catapult chain chair cheese chest chisel cloak coconut "
           "cookie cork crayon crystal cupcake curtain dagger diamond diary doughnut drill "
           "eggcup emerald envelope eraser file fork fossil funnel gem glider globe goblet gong "
           "grape guitar hairpin handkerchief hoop hourglass igloo inkpot jacket jewel keyboard "
           "kimono knot ladle lemon lens lock loom lute magnet marble melon microscope mop mug "
           "napkin net nut oar onion orb ornament paddle painting pancake parachute parcel "
           "parrot peach pebble phone piano pickle pie pin pineapple pipe pitcher poem poster "
           "potion potato pumpkin quill radio raft rake raincoat recipe robe robot rocket "
           "rocking-horse ruby rug ruler saddle sail sandwich satchel saw scroll seed shoe "
           "skateboard sled slipper snowball sock sofa spear spyglass stamp star statue stick "
           "stool suitcase swing tablet tambourine tassel tent thimble ticket tile tin toaster "
           "tomato tool toothbrush towel toy tray treasure truck tulip typewriter urn vest "
           "waffle wagon walnut wallet wig windmill xylophone yo-yo").split()
ANIMALS = ("ant ape bat bee beetle bull butterfly calf camel canary chicken crab crane "
           "crocodile dolphin dragon dragonfly eagle eel elephant falcon ferret fish flea gecko "
           "giraffe gorilla hamster hawk heron hippo hyena iguana jackal kangaroo kitten koala "
           "lamb leopard lion lizard llama lobster lynx mammoth monkey moose moth newt octopus "
           "ostrich ox panda parrot peacock pelican pig pigeon pony puppy rabbit ram rat raven "
           "salmon seal shark skunk snail snake sparrow spider stork tiger toad trout unicorn "
           "vulture walrus wasp weasel whale worm yak zebra").split()
UNSEEN = dict(
    girls="Zoe Alexandra Priya Hannah Katarina Abigail Ophelia Gwen Mirabel Tomoko Josephine "
          "Winifred".split(),
    boys="Alexander Benjamin Sven Raj Nicholas Gordon Thaddeus Kofi Leonard Mohammed Percy "
         "Zoltan".split(),
    objects="mandolin sandal trombone broom teacup backpack calculator bathtub pretzel "
            "snowglobe hammock lollipop cucumber dictionary accordion ukulele".split(),
    animals="rhinoceros hummingbird penguin chipmunk tortoise porcupine ladybird cheetah".split())
ONSET = ("b c ch d dr f fl g gl gr h j k kr l m n p pr q r s sh sk st t th tr v w x y z br sn "
         "bl").split()
VOWEL = "a e i o u a e i o ai ea oo ee ia ou y".split()
CODA = ["", "", "", "n", "r", "l", "s", "x", "th", "m", "nd", "ck", "d", "t", "rt", "ng", "ph"]
FAR = ("France|Japan|Peru|the moon|Norway|a country|the king|a whale|the sun|gold|glass|rain|music|"
       "a computer|a car|the law|history|paper|steel|electricity|the sky|a star|money|Rome|"
       "a train|the internet|a volcano|the heart|a language|China|water|a film").split("|")
ODD = ("What is the capital of {}?|Who invented {}?|How do I make {}?|Explain {}.|What is {}?|"
       "Why is {} so important?|Tell me about the history of {}.|How old is {}?|Where is {}?|"
       "Write a program about {}.|Write a poem about {}.|Translate {} into French.|"
       "What do you think of {}?|How far away is {}?|Who is the president of {}?|"
       "What is the weather in {}?|Can you explain {} to me?|How does {} work?").split("|")
SORRY = "I do not know that. I can tell a story, or add small numbers."
