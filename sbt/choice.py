"""Choice: a named function with numbers, options and a source; how a config names everything.

Rules, models, schedules, objectives and measurements are functions (or classes) with keywords. A
registry gives each a name and reads the rest from its signature, so that adding one takes one
function and no edit elsewhere:

    @SCHEDULES.register("sqrt_decay", source="a paper, equation 3")
    def sqrt_decay(progress, rate: Annotated[ArrayLike, POSITIVE] = 1.0):
        ...

The annotation of a keyword says what a config may give for it:

=====================================  =============================================================
``Annotated[float, Range]``            a *number* in that range: lanes may differ in it
``Annotated[int, Range]``              a whole number; an *option*, like all that follow
``Literal["a", "b"]``, ``Names(...)``  one of these names
``bool``, ``str``                      True or False; a text
``... | None``                         None as well
``... | Sequence[...]``                a tuple of such as well
``tuple[...]``, ``Sequence[...]``      a tuple of such, nothing else
=====================================  =============================================================

A keyword with any other annotation is for callers from Python alone.
"""

import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from sbt.errors import UserError, nearest, shown
from sbt.ranges import ANY, Range, check_number, plain


@dataclasses.dataclass(frozen=True, init=False)
class Names:
    """Names that a config may give for a keyword that takes more from Python."""

    names: tuple[str, ...]

    def __init__(self, *names: str):
        object.__setattr__(self, "names", names)


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field of a config takes.

    Attributes:
      default: its value where nobody sets it.
      kind: ``int``, ``float``, ``bool``, ``str``, ``tuple`` (of anything) or ``object`` (anything);
        of each entry where it takes several.
      allowed: the numbers or the names that it takes; None: all of its kind.
      about: its meaning, in a line.
      optional: whether it may be None.
      single: whether it takes one such value ...
      several: ... and whether a tuple of them.
      length: of that tuple, where it is fixed.
      distinct: whether the entries of that tuple must differ.
    """

    default: Any
    kind: type
    allowed: Range | tuple[str, ...] | None = None
    about: str = ""
    optional: bool = False
    single: bool = True
    several: bool = False
    length: int | None = None
    distinct: bool = False

    @property
    def _each(self) -> str:
        words = {
            int: "a whole number",
            float: "a number",
            str: "a text",
            tuple: "a tuple",
            object: "a value",
        }
        if self.kind is bool:
            text = "True or False"
        elif isinstance(self.allowed, tuple):
            text = f"one of {', '.join(self.allowed)}"
        else:
            text = f"{words[self.kind]} {self.allowed or ''}".strip()
        return text

    @property
    def takes(self) -> str:
        """What it takes, in words that follow "give"."""
        text = self._each
        if self.several:
            like = self.default if isinstance(self.default, tuple) else (self.default,)
            tuples = f"a tuple, such as {like!r}"
            text = f"{text}, or {tuples}" if self.single else tuples
        return f"{text}, or None" if self.optional else text

    def taken(self, where: str, value: Any) -> Any:
        """A value as the field takes it: 1 where a number is wanted is 1.0.

        Args:
          where: the field, as the user writes it: ``config.rule.momentum``.
          value: of any type. A traced value is the caller's affair.

        Raises:
          UserError: it is of another type, out of range, or not one of the names.
        """
        value = plain(value)
        if isinstance(value, jax.core.Tracer) or (value is None and self.optional):
            return value
        listed = isinstance(value, tuple | list) or getattr(value, "ndim", 0) == 1
        if listed and self.several:
            if not len(value) or self.length not in (None, len(value)):
                raise UserError(where, f"{shown(value)} has {len(value)} values", self._remedy)
            items = tuple(self._one(where, item) for item in value)
            if self.distinct and len(set(items)) < len(items):
                raise UserError(where, f"{shown(value)} holds a value twice", "give each once")
            return items
        if not self.single:
            raise UserError(where, f"{shown(value)} is not a tuple", self._remedy)
        return self._one(where, value)

    @property
    def _remedy(self) -> str:
        return f"give {self.takes}"

    @property
    def _remedy_of_one(self) -> str:
        return self._remedy if self.single else f"give {self._each}"

    def _one(self, where: str, value: Any) -> Any:
        value = plain(value)
        if self.kind in (int, float):
            allowed = self.allowed if isinstance(self.allowed, Range) else ANY
            try:
                number = check_number(where, value, allowed, whole=self.kind is int)
            except UserError as error:
                raise UserError(where, error.problem, self._remedy_of_one) from None
            return self.kind(number)
        if isinstance(self.allowed, tuple) and isinstance(value, str) and value not in self.allowed:
            raise UserError(where, f"unknown value {shown(value)}", nearest(value, self.allowed))
        if not isinstance(value, self.kind):
            kinds = {bool: "True or False", str: "a text", tuple: "a tuple"}
            problem = f"{shown(value)} is not {kinds[self.kind]}"
            raise UserError(where, problem, self._remedy_of_one)
        return value


def fields_of(make: Callable[..., Any], **defaults: Any) -> dict[str, Field]:
    """The fields that a config can set of a function's keywords, or of a dataclass.

    Args:
      make: a function, or a class such as a Flax module's.
      **defaults: in place of those in the signature.

    Returns:
      By name, in the order of the signature; see the table of this module. Parameters without a
      default, and those whose annotation says nothing to a config, are left out.
    """
    if dataclasses.is_dataclass(make):
        items = [(f.name, f.type, f.default) for f in dataclasses.fields(make)]
    else:
        parameters = inspect.signature(make).parameters.values()
        items = [(p.name, p.annotation, p.default) for p in parameters]
    found = {}
    for name, annotation, stated in items:
        default = defaults.get(name, stated)
        if default is inspect.Parameter.empty or default is dataclasses.MISSING:
            continue
        field = _field(_evaluated(annotation, make), default)
        if field is not None:
            found[name] = field
    return found


def _evaluated(annotation: Any, make: Any) -> Any:
    """An annotation, where its module postpones their evaluation (PEP 563)."""
    if isinstance(annotation, str):
        with contextlib.suppress(Exception):  # names that only a type checker sees
            return eval(annotation, vars(sys.modules[make.__module__]))
    return annotation


def _keywords(make: Any) -> list[str]:
    """Names of the parameters of a function, or of the fields of a dataclass."""
    if dataclasses.is_dataclass(make):
        return [field.name for field in dataclasses.fields(make)]
    return list(inspect.signature(make).parameters) if make else []


def _field(annotation: Any, default: Any) -> Field | None:
    """What an annotation says, or None where it says nothing to a config."""
    parts = list(_alternatives(annotation))
    optional = type(None) in (part for part, _ in parts)
    told = [(part, allowed) for part, allowed in parts if part is not type(None)]
    scalars = [(p, a) for p, a in told if not _is_tuple(p) and not _is_function(p)]
    tuples = [(p, a) for p, a in told if _is_tuple(p)]
    allowed = next((a for _, a in told if a is not None), None)
    kinds = {part for part, _ in scalars if part in (bool, int, float, str)}
    unknown = [part for part, _ in scalars if part not in (bool, int, float, str)]
    if (not kinds and not tuples) or unknown:
        return None
    length = None
    if tuples:
        inner = typing.get_args(tuples[0][0])
        length = len(inner) if inner and typing.get_origin(tuples[0][0]) is tuple else None
        length = None if Ellipsis in inner else length
        if allowed is None:
            entry = _field(inner[0], default[0] if isinstance(default, tuple) else default)
            if entry is None:
                return None
            allowed, kinds = entry.allowed, kinds or {entry.kind}
        kinds = kinds or {int if inner[0] is int else float}
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    if default is None and isinstance(allowed, tuple) and not optional:
        default = allowed[0]
    if kind is float and isinstance(default, int) and not isinstance(default, bool):
        default = float(default)
    return Field(
        default,
        kind,
        allowed,
        optional=optional,
        single=bool(scalars),
        several=bool(tuples),
        length=length,
    )


def _alternatives(annotation: Any) -> Iterator[tuple[Any, Any]]:
    """Members of a union, each with the range or names that are annotated at it.

    Where a range is annotated at a union (of floats and arrays), that is one number.
    """
    ranges = [e for e in getattr(annotation, "__metadata__", ()) if isinstance(e, Range | Names)]
    if ranges and isinstance(ranges[0], Names):
        yield str, ranges[0].names
        return
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    origin = typing.get_origin(annotation)
    union = typing.get_args(annotation) if origin in (typing.Union, types.UnionType) else ()
    if ranges:
        tuples = [part for part in union or (annotation,) if _is_tuple(part)]
        if union or not tuples:
            yield int if annotation is int else float, ranges[0]
        yield from ((part, ranges[0]) for part in tuples)
    elif union:
        for part in union:
            yield from _alternatives(part)
    elif origin is typing.Literal:
        yield str, typing.get_args(annotation)
    else:
        yield annotation, None


def _is_tuple(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (tuple, list, collections.abc.Sequence)


def _is_function(annotation: Any) -> bool:
    return typing.get_origin(annotation) is collections.abc.Callable


@dataclasses.dataclass(frozen=True)
class Choice:
    """A function that a config can name, with values for its keywords.

    Calling it calls the function: ``choice(progress, power=2.0)``. What is not given has the value
    that the config gave it (see :meth:`Registry.configured`), or its default.

    Attributes:
      section: of the config.
      name: in that section.
      make: the function, or a class.
      fields: its keywords as a config knows them, with what all of its registry share.
      source: the paper (authors, year, arXiv number) and where in it.
      needs: what else it asks of whoever calls it; names.
      check: ``(where, values)``; refuses values that do not go together.
      facts: anything else that its registry's users want to know.
      static: fields whose numbers are structure, too, such as those of a model.
      fixed: keywords that the name stands for.
      others: keywords of the function that no config sets.
    """

    section: str
    name: str
    make: Callable[..., Any]
    fields: Mapping[str, Field]
    source: str = ""
    needs: frozenset[str] = frozenset()
    check: Callable[[str, Mapping[str, Any]], None] | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    static: frozenset[str] = frozenset()
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    others: frozenset[str] = frozenset()

    @property
    def values(self) -> dict[str, Any]:
        """The value of every field."""
        return {name: field.default for name, field in self.fields.items()}

    @property
    def numbers(self) -> dict[str, float]:
        """Values that lanes of one program may differ in."""
        return {k: v for k, v in self.values.items() if type(v) is float and k not in self.static}

    @property
    def options(self) -> dict[str, Any]:
        """Values that are structure: all but the numbers."""
        numbers = self.numbers
        return {k: v for k, v in self.values.items() if k not in numbers}

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """The values of every option that takes one of a few, its default first."""
        found = {}
        for name, value in self.options.items():
            field = self.fields[name]
            some: tuple[Any, ...] = field.allowed if isinstance(field.allowed, tuple) else ()
            some = (False, True) if field.kind is bool else some
            if some and value is not None:
                found[name] = (value, *(other for other in some if other != value))
        return found

    @property
    def about(self) -> str:
        """First line of its documentation."""
        return str(self.facts.get("about") or (inspect.getdoc(self.make) or "").partition("\n")[0])

    def configured(self, given: Mapping[str, Any]) -> "Choice":
        """The same with other values; a field that is given None, or a number for None, changes
        sides between :attr:`numbers` and :attr:`options`.

        Raises:
          UserError: an unknown field (with the nearest names), a value that a field does not take,
            or values that do not go together.
        """
        fields = dict(self.fields)
        for name, value in given.items():
            where = f"config.{self.section}.{name}"
            if name in self.fixed:
                remedy = f"{self.name} stands for {self.fixed[name]!r}: choose another name"
                raise UserError(where, "is not set here", remedy)
            if name not in fields:
                remedy = nearest(str(name), map(str, fields))
                raise UserError(where, f"{self.name!r} has no such field", remedy)
            fields[name] = dataclasses.replace(
                fields[name], default=fields[name].taken(where, value)
            )
        choice = dataclasses.replace(self, fields=fields)
        if self.check is not None:
            self.check(f"config.{self.section}", choice.values)
        return choice

    def __call__(self, *arguments: Any, **overrides: Any) -> Any:
        """Calls the function.

        Args:
          *arguments: those without a name.
          **overrides: values, traced or not, in place of its own; and keywords of the function that
            no config sets.

        Raises:
          UserError: the function has no such keyword, or it is one of :attr:`options`.
        """
        known = {*self.numbers, *self.others}
        for name in overrides:
            if name not in known:
                field = f"config.{self.section}.{name}"
                raise UserError(field, f"{self.name!r} has no such number", nearest(name, known))
        return self.make(*arguments, **{**self.fixed, **self.values, **overrides})


class Registry(Mapping[str, Choice]):
    """Everything that one section of a config can name.

    Args:
      section: of the config: ``rule``.
      shared: ``(make, *arguments, **fields)``, what all choices are called through, such as a
        schedule's warm-up. Its keywords are fields of all; the others it hands on.
      static: whether numbers are structure that lanes share.
      elsewhere: keywords that a config sets in another place, and in which.
      default: the name where none is given; None: one has to be.
    """

    def __init__(
        self,
        section: str,
        *,
        shared: Callable[..., Any] | None = None,
        static: bool = False,
        elsewhere: Mapping[str, str] | None = None,
        default: str | None = None,
    ):
        self.section, self._static, self._default = section, static, default
        self._shared = shared
        self._elsewhere = dict(elsewhere or {})
        self._choices: dict[str, Choice] = {}
        self._later: dict[str, Callable[[str], Choice]] = {}
        self._made: dict[str, Choice] = {}

    def register(
        self,
        name: str,
        *,
        source: str = "",
        needs: tuple[str, ...] = (),
        check: Callable[[str, Mapping[str, Any]], None] | None = None,
        defaults: Mapping[str, Any] | None = None,
        fixed: Mapping[str, Any] | None = None,
        alone: bool = False,
        **facts: Any,
    ) -> Callable[[Any], Any]:
        """Gives a function a name; a decorator that returns the function itself.

        Args:
          name: in a config.
          source: paper and place.
          needs: see :class:`Choice`.
          check: see :class:`Choice`.
          defaults: in place of those in the signature.
          fixed: keywords that the name stands for.
          alone: whether it goes without what the registry's choices share.
          **facts: see :class:`Choice`.
        """

        def decorate(make: Any) -> Any:
            hidden = {*self._elsewhere, *(fixed or {})}
            fields, call = fields_of(make, **dict(defaults or {})), make
            if self._shared is not None and not alone:
                fields |= fields_of(self._shared, **dict(defaults or {}))
                call = functools.update_wrapper(functools.partial(self._shared, make), make)
            fields = {key: field for key, field in fields.items() if key not in hidden}
            others = {*_keywords(make), *_keywords(self._shared)} - {*fields, *(fixed or {})}
            self._choices[name] = Choice(
                self.section,
                name,
                call,
                fields,
                source,
                frozenset(needs),
                check,
                facts,
                frozenset(fields if self._static else ()),
                dict(fixed or {}),
                frozenset(others),
            )
            return make

        return decorate

    def alike(self) -> "Registry":
        """An empty registry of the same section, with what its choices share."""
        return Registry(
            self.section,
            shared=self._shared,
            static=self._static,
            elsewhere=self._elsewhere,
            default=self._default,
        )

    def extend(self, names: Iterable[str], make: Callable[[str], Choice]) -> None:
        """Names whose choice is made when it is first asked for; they are not iterated over.

        Args:
          names: of them.
          make: a name to its choice.
        """
        self._later.update(dict.fromkeys(names, make))

    def __getitem__(self, name: str) -> Choice:
        if name not in self._choices and name in self._later:
            if name not in self._made:
                self._made[name] = self._later[name](name)
            return self._made[name]
        return self._choices[name]

    def __contains__(self, name: object) -> bool:
        return name in self._choices or name in self._later

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __setitem__(self, name: str, choice: Choice) -> None:
        self._choices[name] = choice

    def __delitem__(self, name: str) -> None:
        del self._choices[name]

    def named(self, name: Any) -> Choice:
        """The choice of that name.

        Raises:
          UserError: there is none; with the nearest names.
        """
        if not isinstance(name, str) or name not in self:
            what = self.section.replace("_", " ")
            field, problem = f"config.{self.section}.name", f"unknown {what} {shown(name)}"
            name = str(name)
            if meant := [one for one in self._later if one.rpartition(".")[2] == name]:
                remedy = f"did you mean {' or '.join(meant)}? Known besides: {', '.join(self)}."
                raise UserError(field, problem, remedy)
            raise UserError(field, problem, nearest(name, self._later if "." in name else self))
        return self[name]

    def configured(self, section: Mapping[str, Any]) -> Choice:
        """What a section of a config names, with the values that it gives.

        Args:
          section: ``name`` and some of the fields.

        Raises:
          UserError: an unknown name, and as :meth:`Choice.configured`.
        """
        fields = dict(section)
        choice = self.named(fields.pop("name", self._default))
        for name in fields:
            if name in self._elsewhere:
                where = f"config.{self.section}.{name}"
                raise UserError(where, "is not set here", self._elsewhere[name])
        return choice.configured(fields)
