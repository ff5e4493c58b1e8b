// crypto.subtle within bounds. It computes on threads of its own, where no watchdog looks and nothing can be
// broken off: so what one job may cost is bounded, and how many of them an isolate has under way.
(function () {
const { core, primordials } = __bootstrap;
const {
  ArrayIsArray,
  Number,
  ObjectDefineProperty,
  ObjectGetOwnPropertyDescriptor,
  ObjectPrototypeIsPrototypeOf,
  Promise,
  ReflectApply,
  StringPrototypeStartsWith,
  StringPrototypeToUpperCase,
  TypedArrayPrototypeGetLength,
  TypedArrayPrototypeSet,
  Uint8Array,
} = primordials;
const { CryptoKey, SubtleCrypto } = core.loadExtScript("ext:deno_crypto/00_crypto.js");
const { DOMException } = core.loadExtScript("ext:deno_web/01_dom_exception.js");
const { bytesOf, isBytes } = core.loadExtScript("ext:atoll/bytes.js");

const ITERATIONS_MAX = 100_000;
// Of an RSA modulus, and of what is derived or generated at once.
const BITS_MAX = 4_096;
const JOBS_MAX = 4;
const WAITING_MAX = 10_000;

const CryptoKeyPrototype = CryptoKey.prototype;
const algorithmOf = ObjectGetOwnPropertyDescriptor(CryptoKeyPrototype, "algorithm").get;

// The members of algorithms that workers may use, those of Argon2 left out: it takes as much memory as it is
// told to.
const MEMBERS = [
  "name", "hash", "salt", "info", "public", "iv", "additionalData", "counter", "label", "context",
  "namedCurve", "publicExponent", "tagLength", "saltLength", "iterations", "length", "modulusLength",
];
const NUMBERS_FROM = 12;

function unsupported(message) {
  throw new DOMException(message, "NotSupportedError");
}

function copyOfBytes(value) {
  const bytes = bytesOf(value);
  const copy = new Uint8Array(TypedArrayPrototypeGetLength(bytes));
  TypedArrayPrototypeSet(copy, bytes);
  return copy;
}


// Each member is read once: an accessor cannot show one number here and another one below.
function readAlgorithm(value) {
  const copy = { __proto__: null };
  for (let i = 0; i < MEMBERS.length; i++) {
    const member = value[MEMBERS[i]];
    if (member === undefined) continue;
    copy[MEMBERS[i]] = i >= NUMBERS_FROM ? Number(member) : isBytes(member) ? copyOfBytes(member) : member;
  }
  if (copy.name !== undefined) copy.name = `${copy.name}`;
  return copy;
}

function checkAlgorithm({ name = "", iterations, length, modulusLength, publicExponent }) {
  if (StringPrototypeStartsWith(StringPrototypeToUpperCase(name), "ARGON2")) unsupported("Argon2 is not supported.");
  if (iterations > ITERATIONS_MAX) {
    unsupported(`Pbkdf2 failed: iteration counts above ${ITERATIONS_MAX} are not supported (requested ${iterations}).`);
  }
  if (length > BITS_MAX) unsupported(`A length of more than ${BITS_MAX} bits is not supported.`);
  if (modulusLength > BITS_MAX) unsupported(`RSA keys of more than ${BITS_MAX} bits are not supported.`);
  if (publicExponent !== undefined && isBytes(publicExponent)) {
    let exponent = 0;
    for (let i = 0; i < TypedArrayPrototypeGetLength(publicExponent); i++) exponent = exponent * 256 + publicExponent[i];
    if (exponent !== 3 && exponent !== 65_537) unsupported("The public exponent of an RSA key must be 3 or 65537.");
  }
}

function checkKey(key) {
  if (!ObjectPrototypeIsPrototypeOf(CryptoKeyPrototype, key)) return key;
  checkAlgorithm({ __proto__: null, modulusLength: ReflectApply(algorithmOf, key, []).modulusLength });
  return key;
}

const isAlgorithm = (value) =>
  typeof value === "object" && value !== null && !isBytes(value) && !ArrayIsArray(value) &&
  !ObjectPrototypeIsPrototypeOf(CryptoKeyPrototype, value);

let running = 0;
let waiting = 0;
let first = null;
let last = null;

function turn() {
  if (waiting >= WAITING_MAX) {
    throw new DOMException(`More than ${WAITING_MAX} cryptographic operations wait for their turn.`, "OperationError");
  }
  return new Promise((resolve) => {
    const place = { __proto__: null, resolve, next: null };
    if (last === null) first = place;
    else last.next = place;
    last = place;
    waiting++;
  });
}

// Hands the turn on, or gives it back.
function over() {
  if (first === null) {
    running--;
    return;
  }
  const { resolve, next } = first;
  first = next;
  if (next === null) last = null;
  waiting--;
  resolve();
}

// A method that computes elsewhere: four jobs at once, the others in line.
function inLine(original) {
  return async function (self, values) {
    for (let i = 0; i < values.length; i++) {
      if (!isAlgorithm(values[i])) continue;
      values[i] = readAlgorithm(values[i]);
      checkAlgorithm(values[i]);
    }
    if (running < JOBS_MAX) {
      running++;
    } else {
      // What it works on is what it was given when it was called.
      for (let i = 0; i < values.length; i++) if (isBytes(values[i])) values[i] = copyOfBytes(values[i]);
      await turn();
    }
    try {
      return await ReflectApply(original, self, values);
    } finally {
      over();
    }
  };
}

// A method that computes in place, and whose time is charged.
function inPlace(original) {
  return async (self, values) => checkKey(await ReflectApply(original, self, values));
}

function replace(name, kind) {
  const { prototype } = SubtleCrypto;
  const descriptor = ObjectGetOwnPropertyDescriptor(prototype, name);
  const bounded = kind(descriptor.value);
  const method = { [name](...values) { return bounded(this, values); } }[name];
  ObjectDefineProperty(method, "length", { __proto__: null, value: descriptor.value.length, configurable: true });
  ObjectDefineProperty(prototype, name, { __proto__: null, ...descriptor, value: method });
}

const IN_LINE = [
  "digest", "encrypt", "decrypt", "sign", "verify", "deriveBits", "deriveKey", "exportKey", "generateKey", "wrapKey",
  "encapsulateBits", "decapsulateBits",
];
for (let i = 0; i < IN_LINE.length; i++) replace(IN_LINE[i], inLine);
const IN_PLACE = ["importKey", "unwrapKey"];
for (let i = 0; i < IN_PLACE.length; i++) replace(IN_PLACE[i], inPlace);
return {};
})();
