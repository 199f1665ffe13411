"""Wrong command lines: one line that names the word and the remedy, exit status 2, nothing made."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts._commands import main
from scripts._plain import plain

ROOT = Path(__file__).parents[1]

FILES = {
    "raises.py": "def pair(shape):\n    raise RuntimeError('no such thing')\n",
    "syntax.py": "def pair(shape)\n    return 1\n",
    "exits.py": "import sys\nsys.exit(3)\n",
    "ints.py": "def pair(shape):\n    return 1, 2\n",
    "three.py": "def pair(shape):\n    return print, print, print\n",
    "nothing.py": "def pair(shape):\n    pass\n",
    "other.py": "def pairs(shape):\n    return print, print\n",
    "value.py": "pair = 3\n",
    "imports.py": "import no_such_module\n",
    "awaits.py": "async def pair(shape):\n    return print, print\n",
    "few.csv": "a,b\n1,x\n2,y\n",
    "words.csv": "a,b\nx,y\n",
    "rows.csv": "\n".join(["a,b", *(f"{n},{n * n % 7}" for n in range(40))]),
    "ragged.csv": "a,b\n1,2,3\n1\n",
    "empty.csv": "",
    "empty.npz": "",
    "list.yaml": "- 1\n",
    "wrong.yaml": "latent_dims: 3\n",
    "deeper.yaml": "prior: {class_path: Vamp, init_args: {componets: 3}}\n",
    "tag.yaml": "latent_dim: !!python/object/apply:os.getcwd []\n",
    "int_data.py": "def data(root):\n    return 3\n",
    "key_data.py": "def data(root):\n    raise KeyError('k')\n",
    "no_data.py": "x = 1\n",
}
"""Wrong files of the user's."""

TRAIN = """
--prior '!!int ""' -> can't be read
--latent_dim '!!bool maybe' -> can't be read
--watch '!!timestamp x' -> can't be read
--data.split '!!float ""' -> can't be read
--data digit -> 'digit': did you mean digits?
--data mnist2 -> did you mean mnist?
--data -> --data: it takes
--data.source -> --data.source: it takes
--data.sedd 3 -> did you mean seed?
--data.split 0.8,0.1 -> --data.split 0.8,0.1: it takes a list
--data rows.csv --data.split [0.5,0.5,0.5] -> 1
--data rows.csv --data.split [1,0,0] -> three shares
--data.seed x -> --data.seed x: it takes a whole number
--data.grey maybe -> it takes true or false
--data.columns a -> it takes a list
--data digits --data.size 8 -> --data.size means nothing for a named set
--data nowhere.npz -> no file 'nowhere.npz'
--data nowhere.csv -> no file 'nowhere.csv'
--data few.csv -> 2 data are too few
--data words.csv -> no numeric columns
--data ragged.csv -> ragged.csv
--data empty.csv -> empty.csv
--data empty.npz -> empty.npz
--data list.yaml -> list.yaml
--data rows.csv --data.columns [c] -> no column 'c'; it has a, b
--data rows.csv --data.label c -> no column 'c'
--data int_data.py -> returned int; expected a Dataset
--data key_data.py -> line 2: KeyError: 'k'
--data no_data.py -> no_data.py
--view -> --view: name one of AnyCounts
--view Binarizd -> did you mean Binarised?
--view os.system -> --view os.system: that makes no View
--view Levels --view.levels x -> --view.levels x: it takes a whole number
--view Levels --view.levls 3 -> did you mean levels?
--view.levls 3 -> name the part that takes it, --view
--latent-dim 5 -> did you mean --latent_dim?
--latent 5 -> did you mean --latent_dim?
--Latent_dim 5 -> did you mean --latent_dim?
--latent_dim -> --latent_dim: it takes a whole number of at least 1
--latent_dim 0 -> --latent_dim 0: it takes a whole number of at least 1
--latent_dim -3 -> it takes a whole number of at least 1
--latent_dim 5.5 -> it takes a whole number of at least 1
--latent_dim nan -> it takes a whole number of at least 1
--latent_dim 1,000 -> it takes a whole number of at least 1
--latent_dim 100000000000 -> take smaller sizes
--latent_dim.size 3 -> latent_dim has no arguments of its own
--learning_rate inf -> it takes a finite number above 0
--learning_rate -1 -> it takes a finite number above 0
--learning_rate nan -> it takes a finite number above 0
--learning_rate 0 -> it takes a finite number above 0
--learning_rate 1e-3s -> it takes a finite number above 0
--lr 0.1 -> did you mean --learning_rate?
--prior -> --prior: name one of AutoregressiveBernoulli
--prior null -> --prior: name one of AutoregressiveBernoulli
--prior Vampp -> did you mean Vamp?
--prior vamp -> did you mean Vamp?
--prior Vamp --prior.componets 3 -> did you mean components? Vamp takes components, learn
--prior Vamp --prior.components x -> --prior.components x: it takes
--prior Vamp --prior.components 0 -> 0
--prior Vamp --prior.latent_dim 3 -> Vamp has that from
--prior models.VAE -> it belongs to --model
--prior Bernoulli -> it belongs to --likelihood
--prior models.Vampp -> did you mean Vamp?
--prior nowhere.Vampire -> did you mean Vamp?
--prior nowhere.Secret -> no module nowhere is imported
--prior subprocess.getoutput -> --prior subprocess.getoutput
--prior os.system -> --prior os.system: that makes no Prior
--prior pathlib.Path -> --prior pathlib.Path: that makes no Prior
--prior Prior -> it is a kind of part
--prior 3 -> --prior 3: there are
--guide DiagonlNormal -> did you mean DiagonalNormal?
--guide Vamp -> it belongs to --prior
--likelihood Bernouli -> did you mean Bernoulli?
--likelihood Binomial -> Binomial counts 16 trials
--likelihood Binomial --likelihood.total_count x -> --likelihood.total_count x: it takes
--likelihood Normal -> Normal has a density
--encoder -> --encoder: name one of
--encoder CNN -> --encoder CNN: there are
--encoder Convolutional --encoder.channels x -> it takes a list
--decoder MLP --decoder.hidden [0] -> hidden=[0]
--decoder MLP --decoder.hidden x -> it takes a list
--decoder MLP --decoder.hidden [1e30] -> it takes a list
--decoder.hidden_dims [400] -> did you mean hidden?
--amortization Foo -> there are Amortized
--model Foo -> there are MaskedVAE, VAE
--objective Iwa -> did you mean Iwae?
--objective Iwae --objective.particles 0 -> at least 1 particle
--objective Iwae --objective.particles x -> it takes a whole number
--objective Iwae --objective.betta 2 -> Iwae takes particles
--objective Objective -> it is a kind of part
--estimator Vimko -> did you mean Vimco?
--estimator Vimco -> Vimco
--optimizer Adamm -> did you mean Adam?
--optimizer Optimizer -> it is a kind of part
--optimizer Adam --optimizer.lr 3 -> Adam has that from --learning_rate
--optimizer SGD --optimizer.momentum x -> it takes a number
--optimizer SGD --optimizer.momentum -4 -> Invalid momentum value
--optimizer SGD --optimizer.nesterov perhaps -> it takes true or false
--scheduler StepLR -> it needs --scheduler.step_size
--scheduler StepLR --scheduler.step_size 0 -> StepLR can't take a step
--scheduler ExponentialLR --scheduler.gama 0.9 -> did you mean gamma?
--kl_weight Linear --kl_weight.steps x -> Linear takes epochs, start, end
--kl_weight Linar -> did you mean Linear?
--schedules.foo Linear -> has the name 'foo'
--schedules.foo Linar -> did you mean Linear?
--schedules 3 -> it takes a mapping
--watch Foo -> --watch Foo: there are
--epochs 0 -> it takes a whole number of at least 1
--epochs -1 -> it takes a whole number of at least 1
--epochs 1e9999 -> it takes a whole number of at least 1
--epochs=two -> it takes a whole number of at least 1
--batch_size 0 -> it takes a whole number of at least 1
--batch_size 100000 -> is more than 1397 data
--seed -1 -> it takes a whole number from 0
--seed 1e30 -> it takes a whole number from 0
--patience 0 -> it takes a whole number of at least 1
--log_every 0 -> it takes a whole number of at least 1
--checkpoint_every -1 -> it takes a number of at least 0
--clip_norm -1 -> it takes a finite number above 0
--select bets -> it takes elbo, objective or last
--device gpu -> did you mean cpu? It takes auto, cpu or cuda
--compile turbo -> it takes auto, off, graph or inductor
--compile -> it takes auto, off, graph or inductor
--precision half -> it takes 32, tf32 or bf16
--data_root few.csv --data mnist -> few.csv
--pair nowhere.py -> nowhere.py is not there
--pair . -> is a folder
--pair few.csv -> is no Python file
--pair raises.py -> raises.py:2: RuntimeError: no such thing
--pair syntax.py -> syntax.py:1: SyntaxError
--pair exits.py -> exits.py:2: it ends the process
--pair ints.py -> ints.py:1: pair(event_shape) returned int, int
--pair three.py -> returned 3 things
--pair nothing.py -> returned NoneType
--pair awaits.py -> returned coroutine
--pair other.py -> did you mean pairs by that?
--pair value.py -> pair is 3
--pair imports.py -> imports.py:1: ModuleNotFoundError
--run few.csv -> few.csv exists
--run few.csv/x -> few.csv is a file
--resume nowhere -> nowhere is not a run directory
--resume few.csv -> few.csv is not a run directory
--resume . -> is not a run directory
--config nowhere.yaml -> nowhere.yaml is not there
--config few.csv -> few.csv is no mapping of arguments
--config list.yaml -> list.yaml is no mapping of arguments
--config wrong.yaml -> wrong.yaml: latent_dims: did you mean --latent_dim?
--config deeper.yaml -> did you mean components?
--config tag.yaml -> tag.yaml
--trust nowhere -> it goes with --resume
extra -> nothing takes extra
-x -> nothing takes -x
--quite -> did you mean --quiet?
--dry -> did you mean --dry_run?
"""
"""Words after `lowerbound train`, and a part of what they are answered with."""

OTHERS = """
trian -> did you mean train?
frobnicate -> there are train
check --prior Vampp -> did you mean Vamp?
check --batch_size 0 -> it takes a whole number of at least 1
check --data nowhere.csv -> no file 'nowhere.csv'
check --pair raises.py -> raises.py:2: RuntimeError
check --epochs 3 -> --epochs
evaluate -> required: run
evaluate nowhere -> not a run directory
evaluate few.csv -> not a run directory
evaluate nowhere --particles x -> it takes a whole number of at least 1
evaluate nowhere --split tests -> did you mean test?
evaluate nowhere --bmdc 3 -> did you mean --bdmc?
sample -> required: run
sample nowhere -> not a run directory
sample nowhere --rows 0 -> it takes a whole number of at least 1
compare -> required: runs
compare nowhere -> not a run directory
compare nowhere --format tabel -> did you mean table?
compare nowhere --quantity elbow -> did you mean elbo?
apply -> required: run
apply nowhere few.csv -> not a run directory
apply nowhere few.csv --what encod -> did you mean encode?
apply nowhere few.csv --out codes.txt -> ends in neither .npz nor .csv
"""
"""The same of the other commands."""


def lines() -> Iterator[tuple[str, str]]:
    for prefix, table in (("train ", TRAIN), ("", OTHERS)):
        for line in table.strip().splitlines():
            words, _, answer = line.partition(" -> ")
            yield prefix + words, answer


@pytest.mark.parametrize(("words", "answer"), lines())
def test_a_wrong_line_is_answered_in_one(
    words: str,
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(shlex.split(words))
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("lowerbound")
    assert answer in err
    assert {path.name for path in tmp_path.iterdir()} <= {*FILES, "__pycache__"}


def test_the_list_of_parts_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--list"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert not {"\\", "$"} & set(shown)
    assert ":math:" not in shown
    assert "  Bernoulli: Binary elements: x_d ~ Bernoulli(σ(l_d)), for x in {0, 1}." in shown  # noqa: RUF001


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\frac1K \sum_k w_k", "1/K Σ_k w_k"),
        (r"\frac{n!}{\prod_d x_d!}", "(n!)/(Π_d x_d!)"),
        (r"z \sim \mathcal N(0, \mathrm{diag}(\sigma^2))", "z ~ N(0, diag(σ^2))"),  # noqa: RUF001
        (r"e^{-\sqrt2 |z_j|}", "e^(-√2 |z_j|)"),
        (r"x \in \{0, 1\}", "x ∈ {0, 1}"),
    ],
)
def test_formulas_in_plain_signs(latex: str, text: str) -> None:
    assert plain(f"a :math:`{latex}` b") == f"a {text} b"


def test_a_reader_that_goes_early_is_no_error() -> None:
    command = f"{sys.executable} -m lowerbound train --list | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.stdout, done.stderr) == ("--prior\n", "")
