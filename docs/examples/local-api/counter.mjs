// Takes one from the stock, but only if that is what it thinks it is: compare-and-set.
const url = process.env.QUORATE_URL ?? "http://localhost:8082";

const ask = async (path, body) => {
  const answer = await fetch(`${url}/v1/counters/orders${path}`, body && {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": crypto.randomUUID() },
    body: JSON.stringify(body),
  });
  const said = await answer.json();
  // Somebody else was first, or the counter's bounds forbid it.
  if (answer.status === 409) return undefined;
  if (!answer.ok) throw new Error(said.detail);
  return said;
};

let done;
while (done === undefined) {
  const { value } = await ask("");
  done = await ask("/compare-and-set", { expected: value, new: value + 10 });
}
console.log(`from ${done.before} to ${done.value}`);
