"""Chat conversations made of the corpus: questions in many wordings, with short answers.

Three families teach what a fine-tuning base needs: to answer from knowledge ("What does X do?"),
to map loosely worded text to one of a few fixed answers ("Which module …?" → "That is email."),
and to find what matters in the user's own words ("What is this about: …"). Requests carry typos,
lost words and greetings, because people's requests do.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pretraining.corpus import Corpus, Entry, Snippet

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You answer questions about Python.",
    "Answer in one short sentence.",
    "You are the help desk. Be brief and polite.",
)
SYSTEM_SHARE = 0.1
MULTI_TURN_SHARE = 0.15
MAX_TURNS = 4

WHAT = (
    "What does {} do?",
    "what is {}",
    "What is {} for?",
    "Explain {}.",
    "Can you tell me what {} does?",
    "Please describe {} in one sentence.",
    "I do not understand {}. What is it good for?",
    "Tell me about {}.",
)
WISHES = (
    "How do I {}?",
    "How can I {}?",
    "I want to {}.",
    "I need to {}, how does that work?",
    "Is there a way to {}?",
    "Can you {}?",
    "I'd like to {}. What should I use?",
    "Where can I {}?",
    "Do you know how to {}?",
    "{}, please",
    "Could I {} somehow?",
)
WHERE = (
    "Which module has {}?",
    "Where do I find {}?",
    "I am looking for {}, where is it?",
    "{} is missing. Which module do I need?",
)
BELONGS = (
    "{}",
    "{}",
    'Which module says "{}"?',
    "Where does this come from: {}",
    "{} Which module is that?",
    "I read this: {} Where was it?",
)
ABOUT = (
    "What is this about: {}",
    "{} What is that about?",
    "Name the key words: {}",
    "What matters here? {}",
    'What does "{}" speak of?',
)
LABEL_SENTENCES = 40
GREETINGS = ("Hi, ", "Hello, ", "hello ", "Hey! ", "Good morning, ", "Excuse me, ", "Please help: ")
THANKS = (
    " Thanks!",
    " Thank you.",
    " please",
    " Please help me.",
    " It is urgent!",
    " Thanks a lot",
)
SMALL_TALK = (
    (("Hello", "Hi", "hey", "Good morning", "Hi there!"), "Hello. How can I help you?"),
    (("Thank you!", "thanks", "Great, thanks a lot", "That helped me"), "You are welcome."),
    (("Who are you?", "what are you", "Are you a human?"), "I am a small language model."),
    (("Bye", "Goodbye!", "See you", "That is all for today"), "Goodbye. Have a nice day."),
)


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...]
    system: str | None = None

    def messages(self) -> list[dict[str, str]]:
        """The conversation in the OpenAI chat format."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages


class ConversationWriter:
    """Draws conversations from a corpus; the same generator state gives the same ones."""

    def __init__(self, corpus: Corpus, random_source: random.Random) -> None:
        self._random = random_source
        self._entries = corpus.entries
        self._wishes = [entry for entry in corpus.entries if _is_imperative(entry)]
        self._called = [entry for entry in corpus.entries if entry.parameters]
        self._sentences = [one for one in corpus.sentences if _plain_words(one.text)]
        said = Counter(sentence.module for sentence in corpus.sentences)
        self._labelled = [one for one in corpus.sentences if said[one.module] >= LABEL_SENTENCES]
        self._word_counts = Counter(
            word for sentence in corpus.sentences for word in _plain_words(sentence.text)
        )
        self._snippets = corpus.snippets
        self._topics = sorted(corpus.topics.items())
        self._kinds: list[tuple[int, Callable[[], Turn]]] = [
            (30, self._belongs),
            (24, self._about),
            (12, self._what),
            (12, self._wish),
            (8, self._echo),
            (4, self._where),
            (3, self._code),
            (3, self._parameters),
            (2, self._kind),
            (1, self._topic),
            (1, self._small_talk),
        ]

    def write(self, count: int) -> list[Conversation]:
        return [self._conversation() for _ in range(count)]

    def _conversation(self) -> Conversation:
        many = self._random.random() < MULTI_TURN_SHARE
        turns = self._random.randint(2, MAX_TURNS) if many else 1
        with_system = self._random.random() < SYSTEM_SHARE
        system = self._random.choice(SYSTEM_PROMPTS) if with_system else None
        return Conversation(tuple(self._turn() for _ in range(turns)), system)

    def _turn(self) -> Turn:
        weights = [weight for weight, _ in self._kinds]
        (_, write) = self._random.choices(self._kinds, weights)[0]
        return write()

    def _what(self) -> Turn:
        entry = self._random.choice(self._entries)
        return Turn(self._asked(WHAT, _short(entry)), entry.summary)

    def _wish(self) -> Turn:
        entry = self._random.choice(self._wishes)
        wish = entry.summary[0].lower() + entry.summary[1:].rstrip(".!?")
        request = self._random.choice(WISHES).format(self._with_lost_words(wish))
        return Turn(self._as_people_write(request), f"Use {_short(entry)} from {entry.module}.")

    def _where(self) -> Turn:
        entry = self._random.choice(self._entries)
        return Turn(self._asked(WHERE, _short(entry)), f"It is in the module {entry.module}.")

    def _belongs(self) -> Turn:
        sentence = self._random.choice(self._labelled)
        text = self._with_lost_words(sentence.text)
        return Turn(self._asked(BELONGS, text), f"{sentence.module} is the module for that.")

    def _about(self) -> Turn:
        """The rarest words of a sentence are what it is about."""
        text = self._random.choice(self._sentences).text
        words = sorted(set(_plain_words(text)), key=lambda word: (self._word_counts[word], word))
        chosen = words[: self._random.choice((1, 2, 3))]
        return Turn(self._asked(ABOUT, text), _listed(chosen))

    def _kind(self) -> Turn:
        entry = self._random.choice(self._entries)
        question = f"Is {_short(entry)} a module, a class or a function?"
        return Turn(self._as_people_write(question), f"It is a {entry.kind}.")

    def _parameters(self) -> Turn:
        entry = self._random.choice(self._called)
        question = f"What are the parameters of {_short(entry)}?"
        return Turn(self._as_people_write(question), f"They are {_listed(entry.parameters)}")

    def _code(self) -> Turn:
        snippet: Snippet = self._random.choice(self._snippets)
        return Turn(f"What does this code do?\n{snippet.code}", snippet.comment)

    def _topic(self) -> Turn:
        title, text = self._random.choice(self._topics)
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        prose = [part for part in paragraphs if part[:1].isupper() and len(part) > 60]
        answer = self._random.choice(prose or paragraphs)[:300]
        return Turn(f"What does the reference say about {title}?", answer)

    def _echo(self) -> Turn:
        sentence = self._random.choice(self._sentences).text
        words = sentence.rstrip(".").split()
        question, answer = self._random.choice(
            (
                (f"Repeat this: {sentence}", sentence),
                (f"What is the first word of: {sentence}", words[0]),
                (f"What is the last word of: {sentence}", words[-1]),
                (f"Write in capitals: {sentence}", sentence.upper()),
                (f"Is there a number in this: {sentence}", _yes(re.search(r"\d", sentence))),
                (f"How many words are in this: {sentence}", str(len(words))),
            )
        )
        return Turn(question, answer)

    def _small_talk(self) -> Turn:
        openings, answer = self._random.choice(SMALL_TALK)
        return Turn(self._random.choice(openings), answer)

    def _asked(self, wordings: Sequence[str], subject: str) -> str:
        return self._as_people_write(self._random.choice(wordings).format(subject))

    def _as_people_write(self, text: str) -> str:
        """Sometimes a greeting, thanks, no capitals, no punctuation, a typo."""
        draw = self._random.random
        if draw() < 0.15:
            text = self._random.choice(GREETINGS) + text
        if draw() < 0.15:
            text += self._random.choice(THANKS)
        if draw() < 0.15:
            text = text.lower()
        if draw() < 0.1:
            text = text.rstrip("?.! ")
        return self._with_typo(text) if draw() < 0.15 else text

    def _with_typo(self, text: str) -> str:
        """One letter swapped with the next, or left out."""
        at = self._random.randrange(len(text) - 1)
        if self._random.random() < 0.5:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        return text[:at] + text[at + 1 :]

    def _with_lost_words(self, text: str) -> str:
        """Half of the time each word but the first is left out with probability 0.2."""
        if self._random.random() < 0.5:
            return text
        first, *rest = text.split()
        return " ".join([first, *(word for word in rest if self._random.random() > 0.2)])


def _is_imperative(entry: Entry) -> bool:
    first = entry.summary.split()[0]
    return entry.kind == "function" and first.isalpha() and first not in {"The", "A", "This", "If"}


def _plain_words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3]


def _short(entry: Entry) -> str:
    """At most the last two parts of the name: what people write."""
    return ".".join(entry.name.split(".")[-2:])


def _listed(names: Sequence[str]) -> str:
    *head, last = names
    return f"{', '.join(head)} and {last}." if head else f"{last}."


def _yes(found: object) -> str:
    return "Yes." if found else "No."
