"""``asdic flash``: bare boxes become members of the fleet, over SSH."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from asdic.cli.console import print_json, print_table
from asdic.cli.fleet import fleet_option, json_option
from asdic.contract.errors import AsdicError, ConfigError, MissingPackageError
from asdic.contract.firmware import TestBootPolicy

if TYPE_CHECKING:
    from asdic.fleet.flash.cargo import Wheelhouse
    from asdic.fleet.flash.flash import Flash, Outcome
    from asdic.fleet.flash.host_keys import KnownHosts
    from asdic.fleet.flash.plan import Plan
    from asdic.fleet.flash.session import Session
    from asdic.fleet.flash.shelf import Result
    from asdic.fleet.flash.verify import Comparison
    from asdic.fleet.flash.wish import Wish

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


class FlashFailedError(AsdicError):
    """At least one box is not as it shall be."""


def site_options(command: _F) -> _F:
    """Add the options that say where a box is, and where on it an installation is."""
    for option in (
        click.option(
            "--now", is_flag=True, default=None, help="Also while an exam is in progress."
        ),
        click.option("--identity", metavar="FILE", help="Private key.  [default: agent, ~/.ssh]"),
        click.option(
            "--accept-host-key",
            metavar="SHA256:…",
            help="Pin this host key, whose fingerprint was compared at the box.",
        ),
        click.option("--python", metavar="PATH", help="Interpreter on the box.  [default: found]"),
        click.option("--runit-scan", metavar="DIR", help="Where runsvdir looks.  [default: found]"),
        click.option("--service-folder", metavar="DIR", help="Where the service is put."),
        click.option("--state", metavar="DIR", help="The device's own.  [default: /var/lib/asdic]"),
        click.option("--prefix", metavar="DIR", help="Where asdic goes.  [default: /opt/asdic]"),
    ):
        command = option(command)
    return command


def wish_options(command: _F) -> _F:
    """Add the options that say how a box shall be."""
    kinds = click.Choice(["auto", "systemd", "runit", "none"])
    for option in (
        click.option("--patience", "patience_s", type=float, help="Seconds until its report."),
        click.option("--run-option", "run_options", multiple=True, help="For `asdic-agent run`."),
        click.option("--simulate", is_flag=True, default=None, help="Stand in for the target."),
        click.option(
            "--without-test-boot",
            type=click.Choice(get_args(TestBootPolicy)),
            help="Firmware where it cannot boot on trial.  [default: as before, or refuse]",
        ),
        click.option(
            "--firmware",
            metavar="ADDRESS",
            help="The microcontroller as the box sees it, as serial:///dev/ttyACM0.  "
            "[default: as before]",
        ),
        click.option(
            "--server", metavar="URL", help="Manager as the box sees it.  [default: through SSH]"
        ),
        click.option("--service", type=kinds, help="What starts the agent.  [default: auto]"),
        click.option("--user", help="Who runs the agent.  [default: asdic, or who logs in]"),
        click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="May be repeated."),
        click.option("--device", metavar="ID", help="Its name.  [default: its host name]"),
        click.option("--release", metavar="VERSION", help="The release that it shall run."),
        click.option("--target", metavar="NAME", help="What the box is."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("address", required=False, metavar="[USER@HOST[:PORT]]")
@wish_options
@site_options
@click.option("--inventory", type=click.Path(path_type=Path), help="Boxes, as a boxes.toml.")
@click.option("--parallel", type=click.IntRange(1, 64), default=1, help="How many boxes at once.")
@click.option("--resume", is_flag=True, help="Leave out boxes that were flashed just so before.")
@click.option("--dry-run", is_flag=True, help="Look and say what would be done; change nothing.")
@click.option("--verify", is_flag=True, help="Compare what is installed with this side.")
@click.option(
    "--releases",
    type=click.Path(path_type=Path),
    default=Path("releases"),
    show_default=True,
    help="Release folder that the manager serves.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("~/.cache/asdic/wheelhouse"),
    show_default=True,
    envvar="ASDIC_WHEELHOUSE",
    help="Where wheels are kept.",
)
@fleet_option
@json_option
def flash(
    *,
    address: str | None,
    inventory: Path | None,
    parallel: int,
    resume: bool,
    dry_run: bool,
    verify: bool,
    releases: Path,
    cache: Path,
    fleet: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Make boxes members of the fleet over SSH: agent, service, identity and first release.

    The box needs an sshd that knows our key, and Python 3.10 to 3.13; no internet. It ends when
    the manager has the box's signed report. Doing it again changes nothing, an interrupted run
    goes on, a failed one leaves the box as it was, and a newer asdic replaces an older one.

    \b
    Examples:
      asdic flash admin@box7.example --target arm64-litert-int8 --release 1.0.0 --tag ward=icu
      asdic flash admin@box7.example --target arm64-litert-int8 --release 1.0.0 --dry-run
      asdic flash admin@box7.example --target arm64-litert-int8 --release 1.0.0 --verify
      asdic flash admin@box7.example --target arm64-litert-int8 --release 1.0.0 \\
          --firmware serial:///dev/ttyACM0
      asdic flash --inventory boxes.toml --parallel 8 --resume
    """
    try:
        from asdic.fleet.flash.flash import Flash
        from asdic.fleet.flash.shelf import Done, Lines, each, flash_all, one_at_a_time
        from asdic.fleet.flash.shore import Shore
        from asdic.fleet.flash.verify import verify as verified
    except ImportError as error:
        raise MissingPackageError(error.name or "fabric", "fleet") from error

    wishes = _wishes(address, inventory, options)
    _check_firmware(wishes)
    shore = Shore(fleet, releases)
    wheelhouse = one_at_a_time(_wheelhouse(cache.expanduser()))
    lines = Lines(partial(_connected, hosts=shore.hosts))

    def on_one(wish: Wish, work: Callable[[Flash], _T]) -> _T:
        say = partial(_say_of, wish.address)
        with lines.to(wish) as session:
            return work(Flash(session, wish, shore=shore, wheelhouse=wheelhouse, say=say))

    def on_each(work: Callable[[Flash], _T]) -> tuple[_T | Exception, ...]:
        each_one = partial(on_one, work=work)
        return each(wishes, each_one, parallel=parallel, abort=lines.hang_up)

    if dry_run:
        with _good(on_each(lambda flash: flash.examine())) as plans:
            _show_plans(plans, as_json=as_json)
    elif verify:
        with _good(on_each(verified)) as compared:
            _show_comparisons(compared, as_json=as_json)
    else:
        results = flash_all(
            wishes,
            partial(on_one, work=_flashed),
            done=Done(shore.folder / "done.json"),
            parallel=parallel,
            resume=resume,
            abort=lines.hang_up,
        )
        _show_results(results, as_json=as_json)


@contextmanager
def _good(found: Sequence[_T | Exception]) -> Iterator[list[_T]]:
    """Yield what was found on the boxes that answered.

    Raises:
        FlashFailedError: Some did not; after the others were shown.
    """
    yield [one for one in found if not isinstance(one, Exception)]
    errors = [str(one) for one in found if isinstance(one, Exception)]
    if errors:
        raise FlashFailedError("; ".join(errors))


def _flashed(flash: Flash) -> Outcome:
    flash.examine()
    return flash.carry_out()


def _wishes(
    address: str | None, inventory: Path | None, options: dict[str, Any]
) -> tuple[Wish, ...]:
    import msgspec

    from asdic.fleet.flash.wish import Wish, check_wish, read_boxes

    given = {name: value for name, value in options.items() if value not in {None, ()}}
    if (address is None) == (inventory is None):
        raise click.UsageError("name one box as USER@HOST, or several with --inventory")
    if inventory is not None:
        if set(given) - {"release", "now"}:
            raise click.UsageError(f"write what boxes shall be into {inventory}")
        return tuple(msgspec.structs.replace(one, **given) for one in read_boxes(inventory))
    if "target" not in given:
        raise click.UsageError("say what the box is with --target")
    pairs = [tag.partition("=") for tag in given.pop("tags", ())]
    if not all(key and value for key, _, value in pairs):
        raise ConfigError("a tag looks like KEY=VALUE")
    tags = {key: value for key, _, value in pairs}
    try:
        return (check_wish(msgspec.convert({**given, "address": address, "tags": tags}, Wish)),)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error


def _check_firmware(wishes: Sequence[Wish]) -> None:
    from asdic.firmware_bridge.connect import parse_address

    for one in wishes:
        if one.firmware is not None:
            try:
                parse_address(one.firmware)
            except ConfigError as error:
                raise ConfigError(f"{one.address}: {error}") from error


def _wheelhouse(cache: Path) -> Wheelhouse:
    from asdic.fleet.flash.wheelhouse import build_wheelhouse

    return partial(build_wheelhouse, cache, progress=_say)


def _connected(wish: Wish, *, hosts: KnownHosts) -> Session:
    from asdic.fleet.flash.ssh import SshSession

    return SshSession.open(
        wish.address, hosts=hosts, accepted=wish.accept_host_key, identity=wish.identity
    )


def _say(words: str) -> None:
    click.echo(words, err=True)


def _say_of(address: str, words: str) -> None:
    _say(f"{address}: {words}")


def _show_plans(plans: Sequence[Plan], *, as_json: bool) -> None:
    import msgspec

    if as_json:
        print_json(msgspec.to_builtins(plans, enc_hook=str))
    else:
        for plan in plans:
            print_table(
                f"{plan.address} as {plan.device}",
                ("what", "now", "will be done"),
                (
                    *((what, found, "") for what, found in plan.facts.lines(plan.now_s)),
                    *((one.what, one.found, one.todo or "nothing") for one in plan.steps),
                ),
            )
            for warning in plan.warnings:
                click.echo(f"note: {warning}")
    bad = [f"{plan.address}: {problem}" for plan in plans for problem in plan.problems]
    if bad:
        raise ConfigError("; ".join(bad))


def _show_comparisons(compared: Sequence[Comparison], *, as_json: bool) -> None:
    if as_json:
        print_json(compared)
    else:
        for one in compared:
            for line in one.lines():
                click.echo(f"{one.address}: {line}")
            if one.is_equal:
                click.echo(f"{one.address}: {one.files} files, all as here")
    different = [one.address for one in compared if not one.is_equal]
    if different:
        raise FlashFailedError(f"not as here: {', '.join(different)}")


def _show_results(results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        print_json(results)
    else:
        print_table("Boxes", ("box", "device", "release", "asdic", "result"), map(_row, results))
        _show_judgements(results)
    failed = [one for one in results if one.error]
    if failed:
        several = f"{len(failed)} of {len(results)} boxes failed"
        raise FlashFailedError(failed[0].error if len(results) == 1 else several)


def _show_judgements(results: Sequence[Result]) -> None:
    for one in results:
        judgement = one.outcome.security if one.outcome and not one.skipped else None
        for line in judgement.lines() if judgement else ():
            click.echo(f"{one.address}: {line}")


def _row(result: Result) -> tuple[str, ...]:
    outcome = result.outcome
    if outcome is None:
        return (result.address, "", "", "", result.text)
    seconds = "" if result.skipped else f", {outcome.seconds:.0f} s"
    release = outcome.release or "none"
    return (
        result.address,
        outcome.device,
        release,
        outcome.version,
        f"{result.text}{seconds}",
    )
