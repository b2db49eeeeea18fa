// Go's own HTTP client, which the `ollama` command is made of.
// go run client.go <address>: prints a line for each thing it did, "name=what came".
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	address := os.Args[1]
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 10 * time.Second}}

	post := func(ctx context.Context, path, body string) *http.Response {
		request, err := http.NewRequestWithContext(ctx, "POST", address+path, strings.NewReader(body))
		if err != nil {
			panic(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			panic(err)
		}
		return answer
	}

	answer := post(context.Background(), "/api/generate", `{"model":"tiny","prompt":"hi"}`)
	count := 0
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); count++ {
	}
	answer.Body.Close()
	fmt.Printf("lines=%d %d %v\n", answer.StatusCode, count, answer.TransferEncoding)

	answer = post(context.Background(), "/api/generate", `{"model":"nowhere","prompt":"hi"}`)
	text, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	fmt.Printf("missing=%d %s\n", answer.StatusCode, text)

	// A body whose length is not told, held back until the server asks for it.
	blob := bytes.Repeat([]byte("weights from go "), 100_000)
	digest := fmt.Sprintf("%x", sha256.Sum256(blob))
	upload, _ := http.NewRequest("POST", address+"/api/blobs/sha256:"+digest, io.MultiReader(bytes.NewReader(blob)))
	upload.Header.Set("Expect", "100-continue")
	answer, err := client.Do(upload)
	if err != nil {
		panic(err)
	}
	answer.Body.Close()
	fmt.Printf("blob=%d %s\n", answer.StatusCode, digest)

	// Leaves in mid-stream.
	ctx, cancel := context.WithCancel(context.Background())
	answer = post(ctx, "/api/generate", `{"model":"shared","prompt":"hi"}`)
	_, err = bufio.NewReader(answer.Body).ReadString('\n')
	cancel()
	fmt.Printf("left=%d %v\n", answer.StatusCode, err)
	answer.Body.Close()

	head, err := client.Head(address + "/")
	if err != nil {
		panic(err)
	}
	fmt.Printf("head=%d %d\n", head.StatusCode, head.ContentLength)
}
