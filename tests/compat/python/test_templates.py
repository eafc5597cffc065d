"""Templates built by the SDK's own builder."""

import pytest
from conftest import Client, done
from e2b import AsyncTemplate, BuildException, Template

pytestmark = pytest.mark.full


def builder(kind):
    return Template if kind == "sync" else AsyncTemplate


async def test_a_template_is_built_used_and_tagged(kind, client, label, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.txt").write_text("copied")
    make = builder(kind)
    template = (
        make(file_context_path=str(tmp_path))
        .from_template("base")
        .set_envs({"COLOUR": "blue"})
        .copy("app", "/srv/app")
        .run_cmd("echo $COLOUR > /tmp/made.txt")
        .set_workdir("/srv")
        .set_start_cmd("sleep 1000", "true")
    )
    name = f"t-{label}"
    lines = []
    built = await done(make.build(template, name, on_build_logs=lambda line: lines.append(str(line))))
    assert built.template_id and built.build_id
    assert await done(make.exists(name))
    sandbox = await client.create(name)
    seen = await done(sandbox.commands.run("cat /srv/app/main.txt /tmp/made.txt; echo; pwd; echo $COLOUR"))
    assert seen.stdout == "copiedblue\n\n/srv\nblue\n"
    tagged = await done(make.assign_tags(f"{name}:default", ["v1"]))
    assert tagged.tags == ["v1"]
    tags = await done(make.get_tags(name))
    assert {tag.tag for tag in tags} == {"default", "v1"}
    of_tag = await client.create(f"{name}:v1")
    assert (await done(of_tag.commands.run("cat /tmp/made.txt"))).stdout == "blue\n"
    await done(make.remove_tags(name, ["v1"]))
    assert {tag.tag for tag in await done(make.get_tags(name))} == {"default"}
    assert not await done(make.exists(f"{name}-other"))
    assert await done(client.Sandbox.delete_snapshot(built.template_id))


async def test_a_failing_step_fails_the_build(kind, label):
    make = builder(kind)
    template = make().from_template("base").run_cmd("true").run_cmd("exit 7")
    with pytest.raises(BuildException) as error:
        await done(make.build(template, f"t-{label}"))
    assert "7" in str(error.value)
    assert not await done(make.exists(f"t-{label}"))
