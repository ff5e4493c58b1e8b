// Date, performance and Intl see a time that stands still while code runs; Rust sets it each time the isolate
// is entered. V8 reads the platform's clock, so what reads "now" is replaced here. This is the first script to
// load: those after it find the replaced Date among the primordials as well.
(function () {
const { primordials } = __bootstrap;
const {
  DatePrototype,
  Float64Array,
  ObjectDefineProperty,
  ObjectGetOwnPropertyDescriptor,
  ReflectApply,
  ReflectConstruct,
  SafeWeakMap,
  WeakMapPrototypeGet,
  WeakMapPrototypeSet,
} = primordials;
const NativeDate = primordials.Date;
const { DateTimeFormat } = globalThis.Intl;

let time = { __proto__: null, 0: 0 };

function now() {
  return time[0];
}

function FrozenDate(...parts) {
  if (new.target === undefined) return `${new NativeDate(time[0])}`;
  if (parts.length === 0) parts[0] = time[0];
  return ReflectConstruct(NativeDate, parts, new.target);
}

function define(target, name, value) {
  ObjectDefineProperty(target, name, {
    __proto__: null, value, writable: true, enumerable: false, configurable: true,
  });
}

function constant(target, name, value) {
  ObjectDefineProperty(target, name, {
    __proto__: null, value, writable: false, enumerable: false, configurable: true,
  });
}

constant(FrozenDate, "name", "Date");
constant(FrozenDate, "length", 7);
ObjectDefineProperty(FrozenDate, "prototype", {
  __proto__: null, value: DatePrototype, writable: false, enumerable: false, configurable: false,
});
define(FrozenDate, "now", now);
define(FrozenDate, "parse", NativeDate.parse);
define(FrozenDate, "UTC", NativeDate.UTC);

// The wrappers of a formatter's bound function: one for each, as the original is.
const formats = new SafeWeakMap();

const freezeFormats = (function () {
  const prototype = DateTimeFormat.prototype;
  const native = ObjectGetOwnPropertyDescriptor(prototype, "format").get;
  ObjectDefineProperty(prototype, "format", {
    __proto__: null,
    configurable: true,
    enumerable: false,
    get: function format() {
      const bound = ReflectApply(native, this, []);
      let frozen = WeakMapPrototypeGet(formats, bound);
      if (frozen === undefined) {
        frozen = (date) => bound(date === undefined ? time[0] : date);
        WeakMapPrototypeSet(formats, bound, frozen);
      }
      return frozen;
    },
    set: undefined,
  });
  const parts = prototype.formatToParts;
  define(prototype, "formatToParts", function formatToParts(date) {
    return ReflectApply(parts, this, [date === undefined ? time[0] : date]);
  });
});

// Called once for each isolate, with the buffer that Rust writes to.
const installClock = (function (buffer) {
  time = new Float64Array(buffer);
  define(DatePrototype, "constructor", FrozenDate);
  define(globalThis, "Date", FrozenDate);
  freezeFormats();
});

__bootstrap.primordials = { __proto__: primordials, Date: FrozenDate, DateNow: now };
return { installClock };
})();
