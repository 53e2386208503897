// Reads a file of config "web" that was the latest at some time within the last 30 seconds.
const url = process.env.QUORATE_URL ?? "http://localhost:8082";

const answer = await fetch(`${url}/v1/configs/web/files/app.yaml?consistency=bounded&maxAge=30`);
if (!answer.ok) throw new Error((await answer.json()).detail);
console.log(`revision ${answer.headers.get("quorate-revision")}:`);
process.stdout.write(await answer.text());
