"""Settings: which source wins, what is refused and in which words, and what becomes of a model."""

from pathlib import Path

import pytest

from slotwise.config import ConfigError, load_settings, memory_budgets
from slotwise.loads import facts_of_load, model_loads
from slotwise.memory.footprint import HOST
from slotwise.settings import parse_bytes, parse_duration
from slotwise.workers.protocol import LoadModel
from tests.tiny_models import write_encoder, write_model

FAKE = "fake:step_ms=1"


def _file(folder: Path, text: str) -> str:
    path = folder / "slotwise.toml"
    path.write_text(text)
    return str(path)


# ---- sources


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "port = 1\nmax_queue = 1\nthreads = 1\n")
    environment = {"SLOTWISE_PORT": "2", "SLOTWISE_MAX_QUEUE": "2"}

    settings = load_settings({"port": 3}, config_file=file, environment=environment)

    assert (settings.port, settings.max_queue, settings.threads, settings.num_parallel) == (3, 2, 1, 8)


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "port = 7\n")

    assert load_settings(environment={"SLOTWISE_CONFIG": file}).port == 7


def test_lists_in_the_environment_are_comma_separated() -> None:
    settings = load_settings(environment={"SLOTWISE_API_KEY": "one, two,", "SLOTWISE_MODELS": "a.gguf,b=c.gguf"})

    assert [key.get_secret_value() for key in settings.api_key] == ["one", "two"]
    assert settings.models == ("a.gguf", "b=c.gguf")


def test_other_variables_are_not_ours() -> None:
    assert load_settings(environment={"OLLAMA_DEBUG": "x", "PORT": "9"}) == load_settings(environment={})


def test_settings_can_not_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load_settings(environment={}), "port", 1)  # noqa: B010 - the point is that it can not be done


# ---- refusals


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": 65536}, ["port", "65536", "65535", "on the command line"]),
        ({"port": "many"}, ["port", "many", "integer"]),
        ({"num_parallel": 0}, ["num_parallel", "0", "greater than or equal to 1"]),
        ({"num_parallel": 256}, ["num_parallel", "256", "255"]),
        ({"kv_type": "f8"}, ["kv_type", "f8", "f16", "q8_0"]),
        ({"flash_attn": "yes"}, ["flash_attn", "yes", "auto", "on", "off"]),
        ({"memory_budget": "much"}, ["memory_budget", "much", "8GiB"]),
        ({"memory_budget": "0"}, ["memory_budget", "greater than 0"]),
        ({"keep_alive": "soon"}, ["keep_alive", "soon", "30m"]),
        ({"max_loaded_models": 0}, ["max_loaded_models", "greater than or equal to 1"]),
        ({"drain_timeout": -1}, ["drain_timeout", "-1"]),
        ({"load_timeout": float("nan")}, ["load_timeout", "nan"]),
        ({"max_queue": 10**7}, ["max_queue", "1000000"]),
        ({"log_level": "loud"}, ["log_level", "loud", "debug"]),
        ({"portt": 1}, ["portt", "did you mean 'port'"]),
        ({"zzzz": 1}, ["zzzz", "known are", "num_parallel"]),
        ({"host": ""}, ["host"]),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(flags, environment={})

    for word in words:
        assert word in str(caught.value)


def test_every_fault_is_told_at_once_with_its_source(tmp_path: Path) -> None:
    file = _file(tmp_path, "port = -1\n")

    with pytest.raises(ConfigError) as caught:
        load_settings(config_file=file, environment={"SLOTWISE_MAX_QUEUE": "x"})

    port, queue = str(caught.value).splitlines()
    assert "port" in port
    assert file in port
    assert "max_queue" in queue
    assert "environment" in queue


def test_a_key_is_never_printed() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"api_key": {"secret": 1}}, environment={})

    assert "secret" not in str(caught.value)
    assert "secret" not in repr(load_settings({"api_key": ["secret"]}, environment={}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = ", ["not TOML"]),
        ("[model.a]\npath='x'\nctx=1", ["model.a.ctx", "context"]),
        ("[model.a]\ncontext=1", ["model.a.path", "required"]),
        ("[model.a]\npath='x'\ncontext=-1", ["model.a.context", "-1"]),
        ("model = 'x.gguf'", ["model", "x.gguf"]),
        ("[server]\nport=1", ["server"]),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(config_file=_file(tmp_path, text), environment={})

    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_not_there_or_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can not be read"):
        load_settings(config_file=str(tmp_path / "no.toml"), environment={})
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        load_settings(config_file=str(tmp_path / "bytes.toml"), environment={})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_machines_are_let_in_only_with_a_key_or_on_request(host: str) -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        load_settings({"host": host}, environment={})

    load_settings({"host": host, "api_key": ["k"]}, environment={})
    load_settings({"host": host, "insecure_no_key": True}, environment={})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    assert load_settings({"host": host}, environment={}).host == host


# ---- sizes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), ("8GiB", 8 * 2**30), ("512 MB", 512_000_000), ("1.5kib", 1536), (" 2 gb ", 2 * 10**9), (7, 7)],
)
def test_sizes(text: object, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "1 XB", "1 2", "-", "nan", "inf", "1e400", "NaNGiB", "infinityGiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


# ---- models


def _loads(**flags: object) -> dict[str, LoadModel]:
    return {name: load for name, (load,) in model_loads(load_settings(flags, environment={})).items()}


def test_models_are_named_by_their_file_or_in_words(tmp_path: Path) -> None:
    plain, other = tmp_path / "plain.gguf", tmp_path / "other.gguf"
    plain.touch()
    other.touch()

    assert list(_loads(models=[str(plain), f"mine={other}"])) == ["plain", "mine"]


def test_an_equals_sign_in_a_folder_is_not_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    (folder / "m.gguf").touch()

    assert list(_loads(models=[str(folder / "m.gguf")])) == ["m"]


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        _loads(models=[f"a={FAKE}", f"a={FAKE}"])


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.gguf does not exist"):
        _loads(models=[str(tmp_path / "no.gguf")])


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        _loads(models=[f"a={tmp_path}"])


def test_a_models_table_wins_over_the_settings_for_all(tmp_path: Path) -> None:
    text = f"num_parallel = 3\ncontext = 100\nflash_attn = 'off'\n[model.own]\npath = '{FAKE}'\nnum_parallel = 5\n"
    settings = load_settings({"models": [f"all={FAKE}"]}, config_file=_file(tmp_path, text), environment={})

    loads = {name: load for name, (load,) in model_loads(settings).items()}

    assert (loads["own"].slots, loads["own"].context_cap, loads["own"].flash_attn) == (5, 100, "off")
    assert loads["all"].slots == 3


def _kinds(tmp_path: Path, **tables: tuple[str, str]) -> dict[str, LoadModel]:
    """Loads of models by name: of a path and a kind."""
    config = tmp_path / "slotwise.toml"
    lines = [f'[model.{name}]\npath = "{path}"\nkind = "{kind}"\n' for name, (path, kind) in tables.items()]
    config.write_text("".join(lines))
    loads = model_loads(load_settings({}, config_file=str(config), environment={}))
    return {name: of_places[0] for name, of_places in loads.items()}


def test_a_model_is_for_what_its_file_says_or_its_table(tmp_path: Path) -> None:
    encoder, ranker, writer = (
        write_encoder(tmp_path, "cls"),
        write_encoder(tmp_path, "rank"),
        write_model(tmp_path, "llama"),
    )
    loads = _kinds(
        tmp_path,
        encoder=(encoder, "auto"),
        ranker=(ranker, "auto"),
        same=(ranker, "embedding"),
        writer=(writer, "auto"),
        text=(writer, "text"),
        both=(writer, "embedding"),
        fake=("fake:", "embedding"),
    )

    assert {name: load.pooling for name, load in loads.items()} == {
        "encoder": "cls",
        "ranker": "rank",
        "same": "rank",
        "writer": "",
        "text": "",
        "both": "mean",
        "fake": "mean",
    }
    assert loads["writer"].host_bytes > loads["both"].host_bytes == 0, "nothing is kept of what is embedded"
    assert {name: facts_of_load(load).kind for name, load in loads.items()} == {
        "encoder": "embedding",
        "ranker": "rank",
        "same": "rank",
        "writer": "text",
        "text": "text",
        "both": "embedding",
        "fake": "embedding",
    }


def test_a_prefix_is_not_kept_for_a_model_that_embeds(tmp_path: Path) -> None:
    text = '[model.e]\npath = "fake:"\nkind = "embedding"\n[model.w]\npath = "fake:"\n[prefix.p]\nsystem = "S"\n'
    loads = model_loads(load_settings({}, config_file=_file(tmp_path, text), environment={}))
    assert [len(loads[name][0].prefixes) for name in "ew"] == [0, 1]

    named = load_settings({}, config_file=_file(tmp_path, text + 'models = ["e"]\n'), environment={})
    with pytest.raises(ConfigError, match="embeds"):
        model_loads(named)


@pytest.mark.parametrize(
    ("kind", "says", "words"),
    [("bert", "text", "can only embed"), ("mamba", "embedding", "recurrent"), ("llama", "vision", "'auto', 'text'")],
)
def test_a_kind_that_a_model_can_not_be_is_refused(tmp_path: Path, kind: str, says: str, words: str) -> None:
    path = write_encoder(tmp_path) if kind == "bert" else write_model(tmp_path, kind)
    with pytest.raises(ConfigError, match=words):
        _kinds(tmp_path, m=(path, says))


def test_without_a_model_the_demo_model_is_served() -> None:
    ((load,),) = model_loads(load_settings(environment={})).values()

    assert load.model_id == "smollm2:135m"
    assert Path(load.path).is_file()


def test_a_budget_that_is_not_given_is_most_of_what_is_free() -> None:
    assert memory_budgets(load_settings({"memory_budget": "3GiB"}, environment={}))[HOST] == 3 * 2**30
    assert 0 < memory_budgets(load_settings(environment={}))[HOST] < 2**50


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), (5, 5), ("0", 0), ("forever", None)]
    + [("-1", None), (-1, None), ("1.5h", 5400), ("1h30m", 5400), ("500ms", 0.5), ("-1m", None)],
)
def test_times_may_have_a_unit(text: str | int, seconds: float | None) -> None:
    assert parse_duration(text) == seconds
    assert load_settings({"keep_alive": text}, environment={}).keep_alive == seconds


# ---- reproducible


def test_reproducible_chooses_cells_and_attention_that_are() -> None:
    ((load,),) = model_loads(load_settings({"models": [FAKE], "reproducible": True}, environment={})).values()
    ((usual,),) = model_loads(load_settings({"models": [FAKE]}, environment={})).values()

    assert (load.reproducible, load.kv_type, load.flash_attn, load.n_gpu_layers) == (True, "bf16", "on", 0)
    assert (usual.reproducible, usual.kv_type, usual.flash_attn) == (False, "f16", "auto")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"kv_type": "f16"}, "'kv_type' is 'f16': with 'reproducible' it must be bf16 or q8_0"),
        ({"kv_layout": "unified"}, "'kv_layout' is 'unified': 'reproducible' needs split cells"),
        ({"flash_attn": "off"}, "'flash_attn' is 'off'"),
        ({"gpu_layers": 9}, "'gpu_layers' is 9"),
        ({"model": {"a": {"path": FAKE, "kv_type": "f32"}}}, r"'model\.a\.kv_type' is 'f32'"),
    ],
)
def test_reproducible_refuses_what_it_can_not_be_had_with(flags: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_settings({"reproducible": True, **flags}, environment={})


def test_no_cache_in_main_memory_can_be_had_and_a_folder_that_is_a_file_not(tmp_path: Path) -> None:
    ((load,),) = model_loads(load_settings({"models": [FAKE], "cache_ram": "0"}, environment={})).values()
    assert load.host_bytes == 0
    with pytest.raises(ConfigError, match="is a file; it must be a folder"):
        _with_prefix(tmp_path, f'prefix_cache = "{tmp_path}/slotwise.toml"\n[prefix.x]\nsystem = "a"')


def _with_prefix(tmp_path: Path, text: str) -> dict[str, LoadModel]:
    file = tmp_path / "slotwise.toml"
    file.write_text(text)
    loads = model_loads(load_settings({"models": [f"a={FAKE}", f"b={FAKE}"]}, config_file=str(file), environment={}))
    return {name: load for name, (load,) in loads.items()}


def test_named_prefixes_are_for_all_models_or_for_those_named(tmp_path: Path) -> None:
    (tmp_path / "house.txt").write_text("You keep the house.")
    loads = _with_prefix(
        tmp_path,
        f"""
        prefix_cache = "{tmp_path}/kept"
        [prefix.support]
        system = "You help."
        [prefix.house]
        file = "{tmp_path}/house.txt"
        models = ["b"]
        """,
    )

    assert [(p.name, p.system) for p in loads["a"].prefixes] == [("support", "You help.")]
    assert [(p.name, p.system) for p in loads["b"].prefixes] == [
        ("support", "You help."),
        ("house", "You keep the house."),
    ]
    assert loads["a"].prefix_cache == f"{tmp_path}/kept"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prefix.x]", "needs either 'system' .* has neither"),
        ('[prefix.x]\nsystem = "a"\nfile = "b"', "needs either 'system' .* has both"),
        ('[prefix.x]\nfile = "/not/there"', "/not/there can not be read: No such file"),
        ('[prefix.x]\nsystem = "a"\nmodels = ["c"]', "names 'c'; models are a, b"),
        ('[prefix.x]\nsystem = ""', "'prefix.x.system'"),
        ('[prefix.x]\nsistem = "a"', "known here are system, file, models"),
        ('prefix_cache = ""', "'prefix_cache'"),
        ('prefix_cache = "/tmp/x"', "there is no \\[prefix.NAME\\]"),
    ],
)
def test_a_prefix_that_can_not_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _with_prefix(tmp_path, text)


@pytest.mark.parametrize(
    ("whole", "own", "context"),
    [
        ("", "", (8192, 4096)),
        ("context = 2048", "", (2048, 0)),
        ("", "context = 16384", (16384, 0)),
        ("kv_layout = 'split'", "", (4096, 0)),
        ("reproducible = true", "", (4096, 0)),
        ("", "kv_cells = 9000", (4096, 0)),
        ("", "kind = 'embedding'", (4096, 0)),
        ("context = 9000", "kind = 'embedding'", (9000, 0)),
    ],
)
def test_a_context_of_which_nothing_is_said(tmp_path: Path, whole: str, own: str, context: tuple[int, int]) -> None:
    text = f'{whole}\n[model.e]\npath = "fake:"\n{own}\n'
    ((load,),) = model_loads(load_settings({}, config_file=_file(tmp_path, text), environment={})).values()

    assert (load.context_cap, load.context_fallback) == context
