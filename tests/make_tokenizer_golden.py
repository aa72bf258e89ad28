# SPDX-License-Identifier: MIT
"""Makes data/tok-golden.gguf, tok-golden.txt and tok-demo.txt with the Hugging Face `tokenizers`
library, so that an implementation nobody here wrote says which ids are right.

The vocabulary of tok-golden.gguf is trained without a pre-tokenizer: its merges run over blanks,
digits and scripts, so a cut at a wrong place shows in the ids. Lines of the text files are
"PRE SPECIAL HEX IDS..." with "-" for no bytes. Characters that Unicode 14 does not assign are left
out: libraries of different age do not agree about them.

Usage: python make_tokenizer_golden.py [path of the demo model's tokenizer.json]
"""

import random
import sys
import unicodedata
from pathlib import Path

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

DATA = Path(__file__).parent / "data"
REGEX = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
             r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
              r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_start|>x"]
USER = ["<think>", "</think>", "<think>\n", "\u2581\u2581"]
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"

PAGE = [
    "The quick brown fox jumps over 13 lazy dogs, doesn't it? I'd say we've seen they're 2,000 km.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак, ґанок, ўсё.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ὀδυσσεύς ᾄδω",
    "Zażółć gęślą jaźń, Příliš žluťoučký kůň, Ünïcödé ß ẞ ĳ ŉ Å Å fi",
    "我能吞下玻璃而不伤身体。繁體中文測試，，，。「引號」",
    "私はガラスを食べられます。それは私を傷つけません。ヷ が ﾊﾝｶｸ",
    "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요 각",
    "أنا قادر على أكل الزجاج و هذا لا يؤلمني. ٠١٢٣٤ بِسْمِ اللَّهِ ﷽",
    "אני יכול לאכול זכוכית וזה לא מזיק לי. שָׁלוֹם",
    "मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती. १२३ क्षत्रिय",
    "আমি কাঁচ খেতে পারি, তাতে আমার কোনো ক্ষতি হয় না। ৪৫",
    "நான் கண்ணாடி சாப்பிடுவேன், அதனால் எனக்கு ஒரு கேடும் வராது.",
    "నేను గాజు తినగలను మరియు అలా చేసినా నాకు ఏమి ఇబ్బంది లేదు",
    "ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ ๑๒๓ น้ำ",
    "მინას ვჭამ და არა მტკივა. ᲛᲘᲜᲐ", "Կրնամ ապակի ուտել և ինծի անհանգիստ չըներ։",
    "ខ្ញុំអាចញុំកញ្ចក់បាន ដោយគ្មានបញ្ហា", "မီးခဲပြာ ကျွန်တော်", "ཤེལ་སྒོ་ཟ་ནས་ང་ན་གི་མ་རེད།", "ᚠᛇᚻ ᛒᛦᚦ ᚠᚱᚩᚠᚢᚱ",
    "ᠪᠢ ᠰᠢᠯᠢ ᠢᠳᠡᠶᠦ\u180eᠠ", "ጤና ይስጥልኝ ፩፪፫", "ᏣᎳᎩ ꭰꭱ", "𐍈𐌰 𝔘𝔫𝔦 𝟘𝟙 𒀀𒁀 𞤀𞤁",
    "e\u0301 n\u0303 a\u0300\u0301\u0302 Z\u0351\u036b\u0343a\u0321lgo \u0301 \u0301x 1\u0301 !\u0301 '\u0301s",
    "👨‍👩‍👧‍👦 👩🏽‍💻 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ #️⃣ ☺️😀😀😀 🤷🏿‍♀️x 🧑‍🚀's",
    "it's IT'S It'S we're WE'RE we'Re I've I'VE I'm I'M you'll YOU'LL he'd HE'D 's't 'sx 'lLama 'r 'v ''s '\u017f ' s",
    "1 12 123 1234 3.14159 1,000,000 0x1F ½ ² Ⅷ ① 一二三 1a a1 \u0661\u0662",
    "int main(void)\n{\n\tfor (int i = 0; i < 10; i++)\n\t\tprintf(\"%d\\n\", i); // ok\n\n\n    return 0;\n}\n",
    "def f(x):\r\n    return x ** 2  # sq\r\n\r\n\r\n", "a\rb\r\nc\n\rd\n \n  \n   x  \n", "   lead", "trail   ", "  two  two  ",
    "a\n\n\n", "\n", " ", "  ", "   ", "\t", "\t\tx", " \tx", "\r\n", " \r\n x", "x \n", "...\n\n...", "!?\r\n\r\n ?!", " .a", " _b", "_c", "\x00\x01\x7f", "a\x00b",
    "https://example.org/a_b?c=d&e=%20#f user@host.tld C:\\dir", "$100 €5 ¥6 ±∞≠≤ → ← ∑∫√ ©®™ «»“”‘’—–…", "\ufeffBOM", "\u200b\u200d\u2060 \u00ad",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nok<|endoftext|>",
    "<|im_start|><|im_start|>x<|im_end|", "<|im_start|", " <think> <think>\n</think>", "\u2581\u2581\u2581", "<|im_start|>xy<|im_end|>s's", "a <|im_end|> b",
    "", "x", "é", "中", "😀",
]


def assigned(c):
    return unicodedata.category(chr(c)) not in ("Cn", "Cs")


def random_texts(rng, n):
    everything = [c for c in range(0x30000) if assigned(c)]
    low = [c for c in range(0x3100) if assigned(c)]
    pieces = list(SPACES) + ["'s", "'LL", "\r\n", "  ", "1", "a", "é", "\u0301", "中", "<think>", "<|im_end|>", "!", "'"]
    out = []
    for i in range(n):
        k = rng.randrange(1, 14)
        pick = [lambda: chr(rng.choice(everything)), lambda: chr(rng.choice(low)),
                lambda: rng.choice(pieces), lambda: rng.choice(rng.choice(PAGE) or "x")]
        out.append("".join(rng.choice(pick if i % 2 else pick[2:])() for _ in range(k)))
    return out


def dress(vocab, merges, pre, user, control, special):
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(REGEX[pre]), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.add_tokens([AddedToken(s, special=False, normalized=False) for s in user])
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in control])
    tok.encode_special_tokens = not special
    return tok


def line(tok, pre, special, text):
    raw = text.encode()
    ids = tok.encode(text, add_special_tokens=False).ids
    return " ".join([pre, str(special), raw.hex() or "-"] + [str(i) for i in ids]) + "\n"


def train(texts, size):
    import json
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), max_token_length=24))
    spec = json.loads(bare.to_str())["model"]
    return spec["vocab"], [tuple(m) for m in spec["merges"]]


def main():
    rng = random.Random(20)
    cut = [t[a:a + 12] for t in PAGE for a in range(0, max(1, len(t) - 6), 5)]
    texts = [t.replace("<", "{") for t in PAGE + cut + random_texts(rng, 300)]
    vocab, merges = train(texts, 2400) # without "<": no merge spells a special token
    tokens = sorted(vocab, key=vocab.get) + USER + CONTROL
    n = len(vocab)
    out = gguf.GGUFWriter(str(DATA / "tok-golden.gguf"), "none")
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(tokens + ["[PAD0]", "[PAD1]"])
    out.add_token_types([1] * n + [4] * len(USER) + [3] * len(CONTROL) + [5, 5])
    out.add_token_merges([" ".join(m) for m in merges])
    out.add_eos_token_id(n + len(USER) + CONTROL.index("<|im_end|>"))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.close()

    cases = PAGE + ["\n".join(PAGE)] + random_texts(rng, 400)
    with open(DATA / "tok-golden.txt", "w") as f:
        for pre in REGEX:
            for special in (1, 0):
                tok = dress(vocab, merges, pre, USER, CONTROL, special)
                wrong = [(i, t, tok.token_to_id(t)) for i, t in enumerate(tokens) if tok.token_to_id(t) != i]
                assert not wrong, wrong[:5]
                f.writelines(line(tok, pre, special, t) for t in cases)
    if len(sys.argv) > 1:
        demo = Tokenizer.from_file(sys.argv[1])
        with open(DATA / "tok-demo.txt", "w") as f:
            f.writelines(line(demo, "qwen2", 1, t) for t in PAGE + random_texts(rng, 100))


main()
