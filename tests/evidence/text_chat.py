#!/usr/bin/env python3
"""Chat templates: Joust's text against Jinja's own, with the settings of transformers, over random conversations.

    tests/evidence/text_chat.py BUILD [TEMPLATE ...]        (default: this folder's chat_templates/*.jinja
                                                                  and ../shared/data/chat-templates)
chat_templates/ are ours; vendors' own stand in models/templates of llama.cpp's sources, which the source package of
llama-cpp-python on the package index carries.
Needs jinja2. Each template renders 1,000 conversations (--count) from a printed seed: equal texts, or both refuse.
"""
import argparse, glob, json, os, random, subprocess, sys, tempfile

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS = {"bos_token": "<|begin|>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class Generation(Extension):  # transformers' tag of that name, which changes no text
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    e = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    e.filters["tojson"] = tojson
    e.globals["raise_exception"] = raise_exception
    return e  # without strftime_now: the time decides nothing in Joust


WORDS = ["stop", "one", "Hello", "the", "\n", "\n\n", " ", "  ", "<think>\n", "</think>", "<tool_response>", "é", "naïve", "日本語",
         "🙂", "👩‍💻", "{\"a\": 1}", "'", '"', "\\", "\t", "<|im_end|>", "{{ x }}", "{% if %}", "</s>", "x" * 40, "e\u0301", "\u00a0",
         "\u2028", "0.5", "\x7f", "\x1c"]


def text(r):
    return "".join(r.choice(WORDS) + r.choice(["", " "]) for _ in range(r.randint(0, 12)))


def value(r, depth=0):
    kind = r.randint(0, 7 if depth < 3 else 4)
    if kind == 0:
        return text(r)
    if kind == 1:
        return r.choice([0, -1, 12345678901234, r.randint(-10**6, 10**6)])
    if kind == 2:
        return r.choice([0.0, -0.5, 1e-7, 1e16, 123456.789, r.random(), r.uniform(-1e9, 1e9)])
    if kind == 3:
        return r.choice([True, False, None])
    if kind in (4, 5):
        return r.choice(["a", "celsius", "München"])
    if kind == 6:
        return [value(r, depth + 1) for _ in range(r.randint(0, 3))]
    return {r.choice("abcdefghé") + str(i): value(r, depth + 1) for i in range(r.randint(0, 4))}


def tool(r):
    function = {"name": r.choice(["get_weather", "add", "söк"]), "description": text(r),
                "parameters": {"type": "object", "properties": value(r, 1), "required": ["a"]}}
    if r.random() < 0.2:
        function["return"] = value(r, 1)
    return {"type": "function", "function": function}


def plain_conversation(r, system):
    messages = [{"role": "system", "content": text(r)}] if system and r.random() < 0.4 else []
    for _ in range(r.randint(1, 4)):
        messages += [{"role": "user", "content": text(r)}, {"role": "assistant", "content": text(r)}]
    return {"messages": messages[:-1] if r.random() < 0.6 else messages, "add_generation_prompt": r.random() < 0.5}


# What a template of the plain kind would refuse is tried on it seldom; the value: whether it has a system role.
PLAIN = {"turns": True, "google-gemma-2-2b-it": False}


def conversation(r, name):
    if name in PLAIN and r.random() < 0.9:
        return plain_conversation(r, PLAIN[name])
    messages = []
    if r.random() < 0.4:
        messages.append({"role": "system", "content": text(r)})
    for _ in range(r.randint(1, 4)):
        messages.append({"role": "user", "content": text(r)})
        if r.random() < 0.25:
            calls = []
            for _ in range(r.choice([1, 1, 1, 2])):
                call = {"id": r.choice(["abcdefghi", "abcdefghi", "short"]), "type": "function",
                        "function": {"name": "add", "arguments": r.choice([value(r), {"x": value(r), "y": 2}])}}
                calls.append(call if r.random() < 0.8 else call["function"])
            messages.append({"role": "assistant", "content": r.choice(["", None, text(r)]), "tool_calls": calls})
            for _ in calls:
                messages.append({"role": "tool", "content": r.choice([text(r), value(r)]), "tool_call_id": "abcdefghi"})
        if r.random() < 0.85:
            answer = {"role": "assistant", "content": text(r)}
            if r.random() < 0.2:
                answer["content"] = "<think>\n" + text(r) + "\n</think>\n\n" + text(r)
            if r.random() < 0.1:
                answer["reasoning_content"] = text(r)
            messages.append(answer)
    if r.random() < 0.05:
        r.shuffle(messages)
    line = {"messages": messages, "add_generation_prompt": r.random() < 0.5}
    if r.random() < 0.35:
        line["tools"] = [tool(r) for _ in range(r.randint(1, 3))]
    kwargs = {}
    if r.random() < 0.3:
        kwargs["enable_thinking"] = r.random() < 0.5
    if r.random() < 0.2:
        kwargs["date_string"] = "1 Jan 2025"
    if r.random() < 0.2:
        kwargs["tools_in_user_message"] = False
    if r.random() < 0.1:
        kwargs["builtin_tools"] = ["code_interpreter", "brave_search", "add"]
    if kwargs:
        line["chat_template_kwargs"] = kwargs
    return line


def expected(template, line):
    try:
        return template.render(messages=line["messages"], tools=line.get("tools"), documents=None,
                               add_generation_prompt=line["add_generation_prompt"],
                               **{**TOKENS, **line.get("chat_template_kwargs", {})})
    except Exception as why:  # noqa: BLE001 - Jinja passes Python's own errors on
        return {"error": f"{type(why).__name__}: {why}"}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("build")
    arguments.add_argument("templates", nargs="*")
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=14)
    arguments.add_argument("--dump", help="write conversations and Jinja's texts, for tests/engine/files/chat_golden.json")
    given = arguments.parse_intermixed_args()
    templates = given.templates or sorted(glob.glob(HERE + "/chat_templates/*.jinja") +
                                          glob.glob(HERE + "/../../../shared/data/chat-templates/*.jinja"))
    driver = os.path.join(given.build, "tests/engine/files/text_driver")
    print(f"jinja2 {jinja2.__version__}, seed {given.seed}, {given.count} conversations a template")
    bad = 0
    dumped = []
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens.json")
        with open(tokens, "w") as file:
            json.dump(TOKENS, file)
        for path in templates:
            r = random.Random(given.seed)
            name = os.path.splitext(os.path.basename(path))[0]
            lines = [conversation(r, name) for _ in range(given.count)]
            with open(path, newline="") as file:
                template = environment().from_string(file.read())
            out = subprocess.run([driver, "chat", path, tokens], text=True, capture_output=True, encoding="utf-8",
                                 input="".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            if out.returncode:
                sys.exit(out.stderr)
            equal = refused = 0
            answers = out.stdout.split("\n")[:-1]
            assert len(answers) == len(lines), (len(answers), out.stderr)
            for i, (line, answer) in enumerate(zip(lines, answers)):
                want, got = expected(template, line), json.loads(answer)
                if isinstance(want, dict) and isinstance(got, dict):
                    refused += 1
                    if "not supported in chat templates" in got["error"]:
                        print("  refused as unsupported:", got["error"], "| Jinja:", want["error"])
                elif want == got:
                    equal += 1
                elif bad < 20:
                    bad += 1
                    print(f"{path}: conversation {i} differs\n  want {want!r}\n  got  {got!r}\n  {json.dumps(line)[:600]}")
            if given.dump:
                dumped += [{"template": os.path.basename(path), "conversation": line, "text": expected(template, line)}
                           for line in lines if isinstance(expected(template, line), str)][:30]
            bad += equal + refused < len(lines)
            print(f"{os.path.basename(path)}: {equal} equal, {refused} refused by both, "
                  f"{len(lines) - equal - refused} different")
    if given.dump:
        with open(given.dump, "w") as file:
            json.dump({"tokens": TOKENS, "cases": dumped}, file, ensure_ascii=True, indent=0)
            file.write("\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
