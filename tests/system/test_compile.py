"""When something is compiled, and what happens when it cannot be."""

import shutil
import sys

import pytest
import torch

from system.errors import UserError
from system.runtime import WORTH_COMPILING, Runtime


def test_auto_compiles_long_runs_only(monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # a program that is there, where a compiler may be missing
    for word, short, long in (("auto", False, True), (True, True, True), (False, False, False)):
        started = Runtime.start("cpu", "fp32", compile=word)
        started.expect(WORTH_COMPILING - 1)
        assert started.compiles is short
        started.expect(WORTH_COMPILING)
        assert started.compiles is long


def test_auto_does_without_a_compiler_and_true_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    started = Runtime.start("cpu", "fp32", compile="auto")
    started.expect(WORTH_COMPILING)
    assert started.compiles is False
    with pytest.raises(UserError, match=r"compile=true needs a C\+\+ compiler .* not installed; use compile=auto"):
        Runtime.start("cpu", "fp32", compile=True)


def test_on_the_cpu_networks_stay_as_they_are():
    network = torch.nn.Linear(2, 2)
    assert Runtime.start("cpu", "fp32", compile=True).optimize(network) is network


def test_what_does_not_compile_runs_as_it_is(monkeypatch, capsys):
    calls = []

    def compile_badly(function, dynamic):
        def call(x):
            calls.append(x)
            raise torch._dynamo.exc.BackendCompilerFailed(function, RuntimeError("no such thing"), None)

        return call

    monkeypatch.setattr(torch, "compile", compile_badly)
    function = Runtime.start("cpu", "fp32", compile=True).guarded_compile(lambda x: x + 1)
    assert [function(1), function(2)] == [2, 3]
    assert calls == [1]
    assert "torch.compile failed" in capsys.readouterr().err


def test_errors_of_the_function_itself_are_not_hidden(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)

    def broken(x):
        raise ValueError("my own")

    with pytest.raises(ValueError, match="my own"):
        Runtime.start("cpu", "fp32", compile=True).guarded_compile(broken)(1)
