// Sends three messages and works on them, a batch at a time.
const queue = `${process.env.QUORATE_URL ?? "http://localhost:8082"}/v1/queues/mails`;

async function ask(path, body = {}) {
  const answer = await fetch(`${queue}/${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.status === 204 ? undefined : answer.json();
}

for (const n of [1, 2, 3]) await ask("messages", { payload: JSON.stringify({ n }) });
for (;;) {
  const { messages } = await ask("receive", { max: 10, wait: 1, visibility: 60 });
  if (messages.length === 0) break;
  for (const { receipt, payload } of messages) {
    console.log("working on", JSON.parse(payload));
    await ask(`${receipt}/ack`);
  }
}
