"""What deploy/ says to Ray and to Kubernetes is well-formed, pinned, closed to the outside, and free of secrets."""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline import cli
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
LOCK = (ROOT / "requirements.lock").read_text()


def documents(name: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(DEPLOY / name))


def pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(\S+)", LOCK, re.MULTILINE)
    return str(version)


def values(tree: Any, key: str) -> Iterator[Any]:
    """All that stands under a key, anywhere."""
    if isinstance(tree, Mapping):
        yield from ([tree[key]] if key in tree else [])
        for value in tree.values():
            yield from values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value, key)


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.glob("*.yaml")))
def test_no_secret_and_no_moving_version_stands_in_a_file(name: str) -> None:
    for tree in documents(name):
        assert not [image for image in values(tree, "image") if ":" not in image or image.endswith(":latest")]
        assert tree.get("kind") != "Secret"
        assert not list(values(tree, "stringData"))
    text = (DEPLOY / name).read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|auth_token: *\S{8}", text)


def test_every_file_is_in_the_index() -> None:
    page = (DEPLOY / "README.md").read_text()
    listed = set(re.findall(r"^\| (\[.+?) \|", page, re.MULTILINE))
    names = {name for cell in listed for name in re.findall(r"\]\(([\w.-]+)\)", cell)}
    hidden = {"README.md", ".gitignore", "Dockerfile.dockerignore"}
    assert names == {path.name for path in DEPLOY.iterdir()} - hidden


# What people type


def commands(page: str) -> list[str]:
    return [line.strip() for line in page.splitlines() if re.match(r"\s*(export .*; )?(ray|python -m pipeline) ", line)]


@pytest.mark.parametrize("line", commands((ROOT / "docs" / "clusters.md").read_text()))
def test_ray_and_the_command_line_know_every_option_on_the_page(line: str) -> None:
    """As far as they look at a line before they do anything: `--help` at its end keeps them from it."""
    from ray.scripts.scripts import cli as ray

    words = shlex.split(line.split(" -- ")[0].split(" && ")[0])
    if words[0] == "ray":
        options = {option for command in _ray(ray, words[1:]) for option in command}
    else:
        help_text = CliRunner().invoke(cli.app, [words[3], "--help"], terminal_width=200).output
        options = set(re.findall(r"--[a-z-]+", help_text))
    assert {word for word in words if word.startswith("--")} <= options


def _ray(group: Any, words: list[str]) -> Iterator[list[str]]:
    """The options of a command of `ray`, and of a command of a command."""
    command = group.commands[words[0]]
    yield [name for parameter in command.params for name in parameter.opts]
    if hasattr(command, "commands"):
        yield from _ray(command, words[1:])


# Ray's launcher


LAUNCHER = documents("ray-cluster.yaml")[0]


def test_ray_accepts_the_launcher_s_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole = prepare_config(LAUNCHER)
    validate_config(whole)
    assert whole["available_node_types"]["worker"]["min_workers"] == 0
    assert whole["max_workers"] == whole["available_node_types"]["worker"]["max_workers"] == 8


def test_the_head_stays_and_the_workers_are_spot_machines_with_gpus() -> None:
    head, worker = (LAUNCHER["available_node_types"][name] for name in ("head", "worker"))
    assert "InstanceMarketOptions" not in head["node_config"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (head["resources"]["CPU"], worker["resources"]["GPU"]) == (0, 1)
    for one in (head, worker):
        assert one["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert one["node_config"]["SecurityGroupIds"]  # without one, Ray opens SSH to the world
        (disk,) = one["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"]


def test_machines_of_the_launcher_ask_for_a_token_and_show_their_page_to_nobody() -> None:
    (start,) = [line for line in LAUNCHER["head_start_ray_commands"] if " start " in line]
    (join,) = [line for line in LAUNCHER["worker_start_ray_commands"] if " start " in line]
    assert all("RAY_AUTH_MODE=token " in line for line in (start, join))
    assert "--dashboard-host=127.0.0.1" in start
    assert any("chmod 600 ~/.ray/auth_token" in line for line in LAUNCHER["setup_commands"])
    assert LAUNCHER["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_launcher_installs_the_lock_file_by_its_hashes() -> None:
    lines = LAUNCHER["setup_commands"]
    assert any("--require-hashes --requirement requirements.lock" in line for line in lines)
    assert any(f"uv=={pinned('uv')}" in line for line in lines)
    for line in [*lines, *LAUNCHER["head_start_ray_commands"], *LAUNCHER["worker_start_ray_commands"]]:
        subprocess.run(["bash", "-n", "-c", line], check=True)


def test_the_launcher_and_the_image_agree_on_python() -> None:
    image = re.findall(r"^FROM python:(3\.\d+\.\d+)-slim", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    launcher = [word for line in LAUNCHER["setup_commands"] for word in re.findall(r"--python (\S+)", line)]
    assert image == launcher


# Kubernetes


CLAIM, POLICY, JOB = documents("rayjob.yaml")
CLUSTER = JOB["spec"]["rayClusterSpec"]
PODS = {
    "submitter": JOB["spec"]["submitterPodTemplate"],
    "head": CLUSTER["headGroupSpec"]["template"],
    "worker": CLUSTER["workerGroupSpecs"][0]["template"],
}


def test_kinds_and_versions() -> None:
    assert [(one["apiVersion"], one["kind"]) for one in (CLAIM, POLICY, JOB)] == [
        ("v1", "PersistentVolumeClaim"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("ray.io/v1", "RayJob"),
    ]
    assert CLUSTER["rayVersion"] == pinned("ray")


def test_the_job_runs_the_command_line_and_cleans_up() -> None:
    shell, option, script = shlex.split(JOB["spec"]["entrypoint"])
    assert (shell, option) == ("bash", "-c")
    words = shlex.split(script.split(" && ")[1])
    assert words[:5] == ["exec", "python", "-m", "pipeline", "sweep"]
    known = CliRunner().invoke(cli.app, ["sweep", "--help"], terminal_width=200).output
    assert all(word in known for word in words[5:] if word.startswith("--"))
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
    assert JOB["spec"]["ttlSecondsAfterFinished"] > 0


def test_the_token_comes_from_a_secret() -> None:
    assert CLUSTER["authOptions"]["mode"] == "token"
    secret = CLUSTER["authOptions"]["secretName"]
    assert f"create secret generic {secret} --from-literal=auth_token=" in (ROOT / "docs" / "clusters.md").read_text()
    assert not [
        name
        for pod in PODS.values()
        for name in values(pod, "name")
        if name in ("RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY")
    ]


@pytest.mark.parametrize("name", PODS)
def test_pods_have_no_rights_and_say_what_they_need(name: str) -> None:
    spec = PODS[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert "/tmp" in mounted  # Ray's own files, where nothing else can be written
        assert set(mounted.values()) == {volume["name"] for volume in spec["volumes"]}
    assert name == "head" or spec["automountServiceAccountToken"] is False  # the head asks Kubernetes for machines


def test_the_autoscaler_has_no_more_rights() -> None:
    assert CLUSTER["autoscalerOptions"]["securityContext"] == PODS["head"]["spec"]["containers"][0]["securityContext"]
    assert {"requests", "limits"} == CLUSTER["autoscalerOptions"]["resources"].keys()


def test_workers_are_spot_machines_that_come_when_they_are_wanted() -> None:
    (group,) = CLUSTER["workerGroupSpecs"]
    assert CLUSTER["enableInTreeAutoscaling"] is True
    assert group["minReplicas"] == group["replicas"] == 0
    assert group["maxReplicas"] > 0
    spec = group["template"]["spec"]
    assert any("spot" in str(toleration) for toleration in spec["tolerations"])
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_only_pods_of_the_sweep_reach_one_another() -> None:
    wanted = POLICY["spec"]["podSelector"]["matchLabels"]
    own, operator = POLICY["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": wanted}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert POLICY["spec"]["policyTypes"] == ["Ingress"]
    for pod in PODS.values():
        assert wanted.items() <= pod["metadata"]["labels"].items()


def test_the_volume_is_the_claim() -> None:
    claims = {claim["claimName"] for pod in PODS.values() for claim in values(pod, "persistentVolumeClaim")}
    assert claims == {CLAIM["metadata"]["name"]}
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_image_holds_the_lock_file_s_versions_and_the_code_and_is_not_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert "--require-hashes --requirement /tmp/requirements.lock" in text
    (user,) = re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)
    assert {pod["spec"]["securityContext"]["runAsUser"] for pod in PODS.values()} == {int(user)}
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {f"!{name}" for name in copied} == {line for line in sent if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
