// Prints each config as it is now, at each change, and locks that are lost. EVENTS=1 ends after the first.
const url = process.env.QUORATE_URL ?? "http://localhost:8082";

const answer = await fetch(`${url}/v1/events`);
let text = "";
events: for await (const bytes of answer.body.pipeThrough(new TextDecoderStream())) {
  text += bytes;
  for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
    const fields = Object.fromEntries(
      text.slice(0, end).split("\n").map((line) => line.split(/: (.*)/s).slice(0, 2)),
    );
    if (fields.data) {
      console.log(fields.event, fields.data);
      if (process.env.EVENTS === "1") break events;
    }
  }
}
