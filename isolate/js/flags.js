// env.FLAGS and ctx.experiments: what rules decided about the request before the worker was called, with
// OpenFeature's evaluation details. Nothing is read from the host until somebody asks. Loaded late.
(function () {
const { core, primordials } = __bootstrap;
const { op_request_flags } = core.ops;
const { JSONParse, ObjectFreeze, ObjectHasOwn, ObjectKeys, TypeError } = primordials;
const { currentInvocation } = core.loadExtScript("ext:atoll/invocation.js");

const NOTHING = ObjectFreeze({ details: ObjectFreeze({}), variables: ObjectFreeze({}) });

function decisionOf(invocation) {
  if (invocation === undefined) {
    throw new TypeError("Flags are decided for a request: ask for them within a handler.");
  }
  if (invocation.flags === undefined) {
    const text = op_request_flags(invocation.id);
    invocation.flags = text === "" ? NOTHING : JSONParse(text);
  }
  return invocation.flags;
}

function failed(flagKey, value, errorCode, errorMessage) {
  return { flagKey, value, reason: "ERROR", errorCode, errorMessage, flagMetadata: {} };
}

function details(flagKey, defaultValue, type) {
  const { details: all } = decisionOf(currentInvocation());
  if (!ObjectHasOwn(all, flagKey)) {
    return failed(flagKey, defaultValue, "FLAG_NOT_FOUND", `there is no rule "${flagKey}"`);
  }
  const { value, variant, reason, errorCode, errorMessage } = all[flagKey];
  if (errorCode !== undefined) return failed(flagKey, defaultValue, errorCode, errorMessage);
  if (variant === undefined) return { flagKey, value: defaultValue, reason, flagMetadata: {} };
  if (type !== null && typeof value !== type) {
    return failed(flagKey, defaultValue, "TYPE_MISMATCH", `the value of variant "${variant}" is no ${type}`);
  }
  return { flagKey, value, variant, reason, flagMetadata: {} };
}

// The methods of an OpenFeature client. They have their results at once: awaiting them does no harm.
class Flags {
  getBooleanDetails(flagKey, defaultValue) {
    return details(flagKey, defaultValue, "boolean");
  }
  getStringDetails(flagKey, defaultValue) {
    return details(flagKey, defaultValue, "string");
  }
  getNumberDetails(flagKey, defaultValue) {
    return details(flagKey, defaultValue, "number");
  }
  getObjectDetails(flagKey, defaultValue) {
    return details(flagKey, defaultValue, "object");
  }
  getBooleanValue(flagKey, defaultValue) {
    return details(flagKey, defaultValue, "boolean").value;
  }
  getStringValue(flagKey, defaultValue) {
    return details(flagKey, defaultValue, "string").value;
  }
  getNumberValue(flagKey, defaultValue) {
    return details(flagKey, defaultValue, "number").value;
  }
  getObjectValue(flagKey, defaultValue) {
    return details(flagKey, defaultValue, "object").value;
  }
  get(flagKey, defaultValue) {
    return details(flagKey, defaultValue, null).value;
  }
  get variables() {
    return decisionOf(currentInvocation()).variables;
  }
}

// What was given, by rule.
function experimentsOf(invocation) {
  const { details: all } = decisionOf(invocation);
  const keys = ObjectKeys(all);
  const given = { __proto__: null };
  for (let i = 0; i < keys.length; i++) {
    const detail = all[keys[i]];
    if (detail.variant !== undefined) given[keys[i]] = ObjectFreeze(detail);
  }
  return ObjectFreeze(given);
}

return { experimentsOf, FLAGS: new Flags() };
})();
