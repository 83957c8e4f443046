#!/usr/bin/env python3
"""Makes grammar_golden.json: which texts llama.cpp's own grammar code takes whole ("yes"), as a beginning ("prefix") or not ("dead"),
and which grammars it refuses (texts null).

    make_grammar_golden.py LLAMA_CPP_SOURCE LLAMA_CPP_BUILD > grammar_golden.json

LLAMA_CPP_BUILD holds bin/libllama.so; a C++ compiler is needed. Made with the llama.cpp of llama-cpp-python 0.3.36.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

DRIVER = r"""
#include "src/unicode.h"
#include "src/llama-grammar.h"
#include <fstream>
#include <iostream>
#include <sstream>
int main(int argc, char ** argv) {
    std::stringstream text;
    text << std::ifstream(argv[1]).rdbuf();
    auto * g = llama_grammar_init_impl(nullptr, text.str().c_str(), "root", false, nullptr, 0, nullptr, 0);
    if (!g) { std::cout << "refused\n"; return 0; }
    const auto begin = llama_grammar_get_stacks(g);
    for (std::string line; std::getline(std::cin, line);) {
        std::string s;
        for (size_t i = 0; i + 1 < line.size(); i += 2) s += (char) std::stoi(line.substr(i, 2), nullptr, 16);
        llama_grammar_get_stacks(g) = begin;
        for (auto c : unicode_cpts_from_utf8(s)) {
            if (llama_grammar_get_stacks(g).empty()) break;
            llama_grammar_accept(g, c);
        }
        const auto & stacks = llama_grammar_get_stacks(g);
        bool whole = false;
        for (const auto & stack : stacks) whole |= stack.empty();
        std::cout << (stacks.empty() ? "dead" : whole ? "yes" : "prefix") << "\n";
    }
}
"""

GRAMMARS = [
    ('root ::= "a" | "b"+ "c"?', "abc"),
    ('root ::= ("x" "y")* "z"{2,3}', "xyz"),
    ('root ::= [a-c]{2} [^a-c]{1,} "!"', "abcde!é"),
    ('root ::= "a" root "b" | "a" root "c" | "d"', "abcd"),
    ('root ::= term ("+" term | "-" term)*\nterm ::= [0-9]+ | "(" root ")"', "12+-()"),
    ('# a comment\nroot ::= s | "" # another\ns ::= "ab" s |\n "c" ( "d"\n | "e" )', "abcde"),
    ('root ::= [\\u00e0-\\u00ff]+ "\\u4e2d"* [\\U0001F600-\\U0001F64F]', "aàé中😀😁"),
    ('root ::= . "\\n" .?', "a\né"),
    ('root ::= "a" s s\ns ::= "a" s s | "b" | "a"', "ab"),
    ('root ::= "\\"" ([^"\\\\] | "\\\\" ["\\\\n])* "\\""', '"\\na'),
    ('root ::= a? b? c?\na ::= "x"\nb ::= "x" "y"\nc ::= "x" "y" "z"', "xyz"),
    ('root ::= "if" ws "(" e ")" ws (st | "{" st* "}") ("else" st)?\nst ::= [a-z] ";" ws\ne ::= [a-z] (("<" | "==") e)?\nws ::= [ \\t]*',
     "if(){}abelse;=< "),
    ('root ::= ("a"{0,2} "b"){2,}', "ab"),
    ('root ::= [a-] [-c] "]"', "abc-]"),
    ('root ::= ( [a-z]+ ","? ){1,3} "."', "abz,."),
    ('root ::= x\nx ::= y | y "," x\ny ::= [0-9]{1,3}', "0123,"),
    ('root ::= object\nvalue ::= object | array | string | number | ("true" | "false" | "null") ws\nobject ::= "{" ws ( string ":" ws value ("," ws string '
     '":" ws value)* )? "}" ws\narray ::= "[" ws ( value ("," ws value)* )? "]" ws\nstring ::= "\\"" ( [^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\bfnrt] | '
     '"u" [0-9a-fA-F]{4}) )* "\\"" ws\nnumber ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws\nws ::= | " " | '
     '"\\n" [ \\t]{0,20}', '{}[]":,u0 1-e.trn\\'),
]
REFUSED = [
    'root ::= root "a"', 'root ::= a\na ::= b "x"\nb ::= a', 'root ::= "a" b', 'a ::= "b"', 'root ::= "a', 'root ::= ("a"', 'root ::= "a")',
    'root ::= [a', 'root ::= "a"{2,1', 'root ::= "\\q"', 'root = "a"', 'root ::= *', 'root ::= x? root\nx ::= "a"', 'root ::= "a" | \n "b"\n | "c"',
    'root ::= "a"{,2}', 'ro_ot ::= "a"',
]


class Driver:
    def __init__(self, source, build, folder):
        self.folder = folder
        self.program = os.path.join(folder, "driver")
        path = os.path.join(folder, "driver.cpp")
        with open(path, "w") as f:
            f.write(DRIVER)
        subprocess.run(["c++", "-std=c++17", "-O1", "-I", source, "-I", source + "/include", "-I", source + "/ggml/include", path, "-o", self.program,
                        "-L", build + "/bin", "-lllama", "-lggml", "-lggml-base", "-Wl,-rpath," + build + "/bin"], check=True)

    def ask(self, grammar, texts):
        path = os.path.join(self.folder, "grammar")
        with open(path, "w") as f:
            f.write(grammar)
        got = subprocess.run([self.program, path], input="".join(t.encode().hex() + "\n" for t in texts), text=True,
                             capture_output=True).stdout.split("\n")[:-1]
        return None if got == ["refused"] else got


def walk(driver, grammar, alphabet, rng):
    """Random walks along beginnings, with what leads off them."""
    found, alive = {}, [""]
    for step in range(24):
        tried = sorted({a + c for a in alive for c in alphabet})
        if len(tried) > 60:
            tried = rng.sample(tried, 60)
        verdicts = driver.ask(grammar, tried)
        found.update(zip(tried, verdicts))
        alive = [t for t, v in zip(tried, verdicts) if v != "dead"]
        if not alive:
            break
        alive = rng.sample(alive, min(len(alive), 6))
    texts = sorted(found)
    dead = [t for t in texts if found[t] == "dead"]
    live = [t for t in texts if found[t] != "dead"]
    texts = rng.sample(live, min(len(live), 50)) + rng.sample(dead, min(len(dead), 30))
    return [[t, found[t]] for t in sorted(texts)]


def main():
    rng = random.Random(1)
    out = []
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(sys.argv[1], sys.argv[2], folder)
        for grammar, alphabet in GRAMMARS:
            assert driver.ask(grammar, [""]) is not None, grammar
            out.append({"grammar": grammar, "texts": walk(driver, grammar, alphabet, rng)})
        for grammar in REFUSED:
            assert driver.ask(grammar, [""]) is None, grammar
            out.append({"grammar": grammar, "texts": None})
    print("[" + ",\n".join(json.dumps(g, ensure_ascii=False) for g in out) + "]")


main()
