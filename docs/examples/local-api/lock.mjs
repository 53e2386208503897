// Runs a job under the lock "nightly", held by a lease: if this program falls silent, it is given back after the ttl.
const url = process.env.QUORATE_URL ?? "http://localhost:8082";

async function ask(method, path, body) {
  const headers = body ? { "content-type": "application/json" } : {};
  const answer = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.status === 204 ? undefined : answer.json();
}

const { lease, token, ttl } = await ask("POST", "/v1/locks/nightly", { wait: 60, ttl: 15 });
const lost = new AbortController();
const renewing = setInterval(
  () => ask("PUT", `/v1/locks/nightly/${lease}`).catch((error) => lost.abort(error)),
  (ttl * 1000) / 3,
);
try {
  for (let step = 0; step < 3; step++) {
    lost.signal.throwIfAborted();
    console.log(`step ${step} under token ${token}`);
  }
} finally {
  clearInterval(renewing);
  await ask("DELETE", `/v1/locks/nightly/${lease}`);
}
