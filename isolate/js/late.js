// Scripts that most workers never use are no part of the snapshot: an isolate compiles and runs one when somebody
// first asks for it. This is the first script to load. Those after it find its loadExtScript in `core`, which gives
// them what the snapshot holds and what is loaded late by the same name, each evaluated once.
(function () {
const { core, primordials } = __bootstrap;
const { op_late_script, op_late_script_ran } = core.ops;
const {
  ArrayPrototypePush,
  ObjectDefineProperty,
  ObjectGetOwnPropertyDescriptor,
  ObjectPrototypeIsPrototypeOf,
  ObjectSetPrototypeOf,
  ReflectDefineProperty,
  ReflectOwnKeys,
  SymbolToStringTag,
  TypeError,
} = primordials;

const MESSAGE_PORT = "ext:deno_web/13_message_port.js";

// The places of the scripts in the list that Rust has, by name.
const places = { __proto__: null };
const names = globalThis.__late;
delete globalThis.__late;
for (let i = 0; i < names.length; i++) places[names[i]] = i;

const loaded = { __proto__: null };
const loadFromSnapshot = core.loadExtScript;

// An exception, or the end of an execution, can come at any point in here. Nothing but the last step counts, and
// what a script does to others while it runs can be done again.
function load(name, place) {
  const script = op_late_script(place);
  const exports = script(__bootstrap);
  // Whoever tampered with what the script looks at may have loaded it meanwhile.
  if (loaded[name] === undefined) {
    op_late_script_ran(place, script);
    loaded[name] = exports;
  }
  return loaded[name];
}

function loadLate(name) {
  return loaded[name] ?? load(name, places[name]);
}

// What the scripts of the Web APIs want of message ports when they load. Prototypes are marked for ports alone, so
// that can wait for them.
const marked = [];
const messagePorts = {
  __proto__: null,
  get MessagePortPrototype() {
    return loadMessagePorts().MessagePortPrototype;
  },
  markNotSerializable(prototype) {
    if (loaded[MESSAGE_PORT] !== undefined) loaded[MESSAGE_PORT].markNotSerializable(prototype);
    else ArrayPrototypePush(marked, prototype);
  },
};

function loadMessagePorts() {
  const ports = loadLate(MESSAGE_PORT);
  while (marked.length > 0) {
    const prototype = marked[marked.length - 1];
    marked.length--;
    // One that the worker has frozen stays as it is.
    try {
      ports.markNotSerializable(prototype);
    } catch {}
  }
  return ports;
}

core.loadExtScript = (name) => {
  if (name === MESSAGE_PORT) return messagePorts;
  return name in places ? loadLate(name) : loadFromSnapshot(name);
};

// What a script exports, when it is loaded: until then there can be no object of its classes.
function ifLoaded(name) {
  return loaded[name];
}

// Whether something is an object of a class of a late script, which exports the class's prototype by this name.
function isOfLate(name, prototype, value) {
  const script = loaded[name];
  return script !== undefined && ObjectPrototypeIsPrototypeOf(script[prototype], value);
}

// Deno's own refuse to register the same name twice, as a script that was broken off and runs again does.
const transferable = { __proto__: null };
core.registerTransferableResource = (name, send, receive) => {
  transferable[name] = { __proto__: null, send, receive };
};
core.getTransferableResource = (name) => transferable[name];
core.registerCloneableResource = (name, deserialize) => {
  core.getCloneableDeserializers()[name] = deserialize;
};

// Deno's own looks at descriptors that inherit from Object.prototype, which a worker may have changed by now.
function configureMembers(object) {
  const keys = ReflectOwnKeys(object);
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i];
    if (typeof key !== "string" || key === "constructor" || key === "prototype") continue;
    const member = ObjectGetOwnPropertyDescriptor(object, key);
    ObjectSetPrototypeOf(member, null);
    if (typeof member.value === "function") member.writable = true;
    else if (member.get === undefined) continue;
    member.enumerable = true;
    ObjectDefineProperty(object, key, member);
  }
}

core.loadExtScript("ext:deno_webidl/00_webidl.js").configureInterface = (Interface) => {
  configureMembers(Interface);
  configureMembers(Interface.prototype);
  ObjectDefineProperty(Interface.prototype, SymbolToStringTag, {
    __proto__: null, value: Interface.name, enumerable: false, configurable: true, writable: false,
  });
};

function settle(holder, name, value, enumerable) {
  return ReflectDefineProperty(holder, name, {
    __proto__: null, value, writable: true, enumerable, configurable: true,
  });
}

// Defines a property that loads the script it comes from when it is first read, and is an ordinary one from then on.
function defineLate(target, name, script, enumerable) {
  ObjectDefineProperty(target, name, {
    __proto__: null,
    configurable: true,
    enumerable,
    get() {
      const value = (script === MESSAGE_PORT ? loadMessagePorts() : loadLate(script))[name];
      settle(target, name, value, enumerable);
      return value;
    },
    set(value) {
      if (!settle(this, name, value, enumerable)) throw new TypeError(`Cannot assign to read only property '${name}'`);
    },
  });
}

return { defineLate, ifLoaded, isOfLate };
})();
