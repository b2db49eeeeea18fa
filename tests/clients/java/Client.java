// Java's own HttpClient at its defaults: it asks for HTTP/2 with `Upgrade: h2c` on plain http.
// java Client.java <address>: prints a line for each thing it did, "name=what came".
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.stream.Collectors;

public class Client {
    private static String address;
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    private static HttpRequest post(String path, BodyPublisher body) {
        return HttpRequest.newBuilder(URI.create(address + path)).POST(body).build();
    }

    private static HttpRequest json(String path, String body) {
        return post(path, BodyPublishers.ofString(body));
    }

    private static void print(String name, HttpResponse<?> answer, Object came) {
        System.out.println(name + "=" + answer.version() + " " + answer.statusCode() + " " + came);
    }

    public static void main(String[] arguments) throws Exception {
        address = arguments[0];

        String ask = "{\"model\":\"tiny\",\"prompt\":\"hi\"}";
        var lines = CLIENT.send(json("/api/generate", ask), BodyHandlers.ofLines());
        print("lines", lines, lines.body().collect(Collectors.toList()).size());

        String whole = "{\"model\":\"tiny\",\"prompt\":\"hi\",\"stream\":false}";
        var answer = CLIENT.send(json("/api/generate", whole), BodyHandlers.ofString());
        print("whole", answer, answer.body().contains("words of the local one"));

        String unknown = "{\"model\":\"nowhere\",\"prompt\":\"hi\"}";
        var missing = CLIENT.send(json("/api/generate", unknown), BodyHandlers.ofString());
        print("missing", missing, missing.body());

        byte[] blob = "weights from java ".repeat(100_000).getBytes();
        String digest = HexFormat.of().formatHex(
            MessageDigest.getInstance("SHA-256").digest(blob));
        var stream = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(blob));
        var sent = CLIENT.send(post("/api/blobs/sha256:" + digest, stream), BodyHandlers.ofString());
        print("blob", sent, digest);

        var version = HttpRequest.newBuilder(URI.create(address + "/api/version")).build();
        var got = CLIENT.send(version, BodyHandlers.ofString());
        print("version", got, got.body().contains("0.33.0"));
    }
}
